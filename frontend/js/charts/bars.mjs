// @ts-check
/** Pages filled over the window, by resolver, on demand or ahead of need. */
import { compact, count, scale } from '../format.mjs';
import { Calm, fitting, layoutOf, ON_BAR, valueAxis } from './axes.mjs';

/** @typedef {import('./axes.mjs').Draw} Draw */

/** Pages placed: UFFDIO_WAKE alone places none. @param {Record<string, number>|undefined} fills */
export const placed = (fills) => Object.entries(fills ?? {}).reduce((sum, [resolver, number]) => sum + (resolver === 'WAKE' ? 0 : number), 0);

const LEFT_PX = 84;
const RIGHT_PX = 60;

/** @returns {Draw} */
export function fillsChart() {
  const calm = new Calm(5);
  return (view, palette, widthPx) => {
    const rows = ['demand', 'background'];
    const fills = rows.map((row) => view.frame.fills?.[row] ?? {});
    const totals = fills.map(placed);
    const woken = fills.reduce((sum, fill) => sum + (fill.WAKE ?? 0), 0);
    const resolvers = [...new Set(fills.flatMap((fill) => Object.keys(fill).filter((name) => name !== 'WAKE' && fill[name] > 0)))].sort();
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
      note: resolvers.length ? undefined : view.frame.fills === null ? 'Pages filled in this part are not known: the recording holds only those of the whole' : 'No page filled in this window',
      summary: `Pages filled over the window: ${rows.map((row, index) => `${row} ${count(totals[index])}`).join(', ')}.${woken ? ` ${count(woken)} times a waiter was only woken, as its page was there.` : ''}`,
    };
  };
}
