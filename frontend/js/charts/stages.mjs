// @ts-check
/** Where a fault's time goes: the mean of each stage, stacked, one bar per mode. */
import { duration, scale, share } from '../format.mjs';
import { STAGES, stageMeaning } from '../words.mjs';
import { Calm, fitting, layoutOf, ON_BAR, valueAxis } from './axes.mjs';

/** Modes that always have a row, so that they can be compared. */
const ALWAYS = ['uffd', 'exit'];

const LEFT_PX = 66;
const RIGHT_PX = 96;

/** Modes with a row in bars and table. @param {Record<string, any>|undefined} stages */
export function stageModes(stages) {
  const more = Object.keys(stages ?? {}).filter((mode) => !ALWAYS.includes(mode) && total(stages?.[mode]) > 0);
  return [...ALWAYS, ...more.sort()];
}

/** Mean ns of one stage, null without a fault. @param {{count: number, sum: number}|undefined} stage */
export function mean(stage) {
  return stage?.count ? stage.sum / stage.count : null;
}

/** @param {Record<string, any>|undefined} stages */
function total(stages) {
  return STAGES.reduce((sum, stage) => sum + (mean(stages?.[stage]) ?? 0), 0);
}

/**
 * @param {() => boolean} asShare whether every bar fills the width
 * @returns {import('./axes.mjs').Draw}
 */
export function stagesChart(asShare) {
  const calm = new Calm(5);
  return (view, palette, widthPx) => {
    const stages = view.frame.stages ?? {};
    const modes = stageModes(stages);
    const totals = modes.map((mode) => total(stages[mode]));
    const shares = asShare();
    const [, high] = shares ? [0, 1] : calm.fit(`${view.revision}`, 0, scale(Math.max(...totals, 1e3), duration, 5).high);
    const ticks = scale(high, shares ? share : duration, 5);
    const traces = STAGES.filter((stage) => modes.some((mode) => mean(stages[mode]?.[stage]) !== null)).map((stage) => {
      const means = modes.map((mode) => mean(stages[mode]?.[stage]));
      return {
        type: 'bar', orientation: 'h', name: stage, y: modes, width: 0.62,
        x: means.map((ns, row) => (ns === null ? null : shares ? ns / (totals[row] || 1) : ns)),
        text: means.map((ns, row) => {
          const part = (ns ?? 0) / (shares ? totals[row] || 1 : high);
          const figure = shares ? share(part) : duration(ns);
          return fitting(part * (widthPx - LEFT_PX - RIGHT_PX), [`${stage} ${figure}`, figure, stage]);
        }),
        ...ON_BAR, insidetextfont: { color: palette.ink, size: 11.5 },
        customdata: means.map((ns, row) => `${modes[row]} · ${stage}: ${stageMeaning(modes[row], stage)}<br>mean ${duration(ns)}, ${share(ns === null ? null : ns / (totals[row] || 1))} of the fault`),
        hovertemplate: '%{customdata}<extra></extra>', marker: { color: palette.stages[stage], line: { color: palette.card, width: 1.5 } }, cliponaxis: false,
      };
    });
    const layout = {
      ...layoutOf(palette), barmode: 'stack', hovermode: 'closest', dragmode: false, margin: { l: LEFT_PX, r: RIGHT_PX, t: 4, b: 26 },
      xaxis: valueAxis(palette, ticks, { range: [0, high] }),
      yaxis: { ticklabeloverflow: 'allow', type: 'category', categoryorder: 'array', categoryarray: [...modes].reverse(), range: [-0.5, modes.length - 0.5], fixedrange: true, ticks: '', ticklabelstandoff: 6, showgrid: false, tickfont: { size: 12.5, color: palette.text } },
      annotations: modes.map((mode, row) => ({
        text: totals[row] ? `${duration(totals[row])}` : 'none ended in this window', x: totals[row] ? (shares ? 1 : Math.min(totals[row], high)) : 0, y: mode,
        xanchor: 'left', yanchor: 'middle', showarrow: false, xshift: 6, font: { size: 12.5, color: totals[row] ? palette.text : palette.muted },
      })),
    };
    return { traces, layout, summary: `Mean time per stage. ${modes.map((mode, row) => `${mode}: ${totals[row] ? duration(totals[row]) : 'no faults'}`).join('; ')}.` };
  };
}
