// @ts-check
/** Two charts of counts over the window: exit reasons, and fills by resolver. */
import { compact, count, plain, scale } from '../format.mjs';
import { Calm, fitting, layoutOf, ON_BAR, valueAxis } from './axes.mjs';

/** More exit reasons than this go into one bar. */
const MOST_REASONS = 8;

/** @typedef {import('./axes.mjs').Draw} Draw */

/** KVM_EXIT_IO → IO; the bare error stays what it is. @param {string} reason */
const short = (reason) => reason.replace(/^KVM_EXIT_/, '');

/** @param {Record<string, number>} exits @returns {[string, number][]} most frequent first */
function reasons(exits) {
  const sorted = Object.entries(exits).filter(([, number]) => number > 0).sort((a, b) => b[1] - a[1]);
  if (sorted.length <= MOST_REASONS) return sorted;
  const rest = sorted.slice(MOST_REASONS - 1);
  return [...sorted.slice(0, MOST_REASONS - 1), [`${rest.length} others`, rest.reduce((sum, [, number]) => sum + number, 0)]];
}

/** @returns {Draw} */
export function exitsChart() {
  const calm = new Calm(5);
  return (view, palette) => {
    const bars = reasons(view.frame.exits ?? {});
    const [, high] = calm.fit(view.revision, 0, scale(Math.max(bars[0]?.[1] ?? 0, 4), compact).high);
    const slots = Math.max(bars.length, 6);
    return {
      traces: [{
        type: 'bar', orientation: 'h', y: bars.map((_, row) => row), x: bars.map(([, number]) => number), width: 0.66,
        text: bars.map(([, number]) => compact(number)), textposition: 'outside', cliponaxis: false, textfont: { color: palette.text, size: 11.5 },
        customdata: bars.map(([reason, number]) => `${plain(reason)}: ${count(number)}`), hovertemplate: '%{customdata}<extra></extra>',
        marker: { color: bars.map(([reason]) => (reason.includes('EFAULT') ? palette.modes.exit : reason.includes('MEMORY_FAULT') ? palette.modes.memory_fault : palette.modes.kernel)) },
      }],
      layout: {
        ...layoutOf(palette), hovermode: 'closest', dragmode: false, margin: { l: 112, r: 52, t: 4, b: 26 },
        xaxis: valueAxis(palette, scale(high, compact, 3), { range: [0, high] }),
        yaxis: { ticklabeloverflow: 'allow', range: [slots - 0.5, -0.5], tickmode: 'array', tickvals: bars.map((_, row) => row), ticktext: bars.map(([reason]) => plain(short(reason))), fixedrange: true, ticklabelstandoff: 6, showgrid: false, zeroline: false, tickfont: { color: palette.text, size: 11 } },
      },
      note: bars.length ? undefined : 'No exits to userspace in this window',
      summary: `Exits to userspace over the window: ${bars.map(([reason, number]) => `${short(reason)} ${count(number)}`).join(', ') || 'none'}.`,
    };
  };
}

/** @param {Record<string, number>|undefined} fills */
export const sumOf = (fills) => Object.values(fills ?? {}).reduce((sum, number) => sum + number, 0);

const LEFT_PX = 84;
const RIGHT_PX = 60;

/** @returns {Draw} */
export function fillsChart() {
  const calm = new Calm(5);
  return (view, palette, widthPx) => {
    const rows = ['demand', 'background'];
    const fills = rows.map((row) => view.frame.fills?.[row] ?? {});
    const totals = fills.map(sumOf);
    const resolvers = [...new Set(fills.flatMap((fill) => Object.keys(fill).filter((name) => fill[name] > 0)))].sort();
    const [, high] = calm.fit(view.revision, 0, scale(Math.max(...totals, 4), compact).high);
    return {
      traces: resolvers.map((resolver) => ({
        type: 'bar', orientation: 'h', name: resolver, y: rows, x: fills.map((fill) => fill[resolver] ?? 0), width: 0.6,
        text: fills.map((fill) => (fill[resolver] ? fitting((fill[resolver] / high) * (widthPx - LEFT_PX - RIGHT_PX), [`${resolver} ${compact(fill[resolver])}`, resolver]) : '')),
        ...ON_BAR,
        insidetextfont: { color: palette.ink, size: 11.5 }, customdata: fills.map((fill, row) => `${rows[row]} ${resolver}: ${count(fill[resolver] ?? 0)}`),
        hovertemplate: '%{customdata}<extra></extra>', marker: { color: palette.resolvers[resolver] ?? palette.resolvers.other, line: { color: palette.card, width: 1.5 } },
      })),
      layout: {
        ...layoutOf(palette), barmode: 'stack', hovermode: 'closest', dragmode: false, margin: { l: LEFT_PX, r: RIGHT_PX, t: 4, b: 26 },
        xaxis: valueAxis(palette, scale(high, compact, 3), { range: [0, high] }),
        yaxis: { ticklabeloverflow: 'allow', type: 'category', categoryorder: 'array', categoryarray: [...rows].reverse(), range: [-0.5, 1.5], fixedrange: true, ticklabelstandoff: 6, showgrid: false, tickfont: { color: palette.text, size: 12 } },
        annotations: rows.map((row, index) => ({ text: compact(totals[index]), x: Math.min(totals[index], high), y: row, xanchor: 'left', showarrow: false, xshift: 6, font: { color: palette.text, size: 12 } })),
      },
      note: resolvers.length ? undefined : 'No page filled in this window',
      summary: `Pages filled over the window: ${rows.map((row, index) => `${row} ${count(totals[index])}`).join(', ')}.`,
    };
  };
}
