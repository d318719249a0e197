// @ts-check
/** Pages placed over time: for somebody who waited, and ahead of need; over them the bytes that QEMU has left. */
import { bytes, compact, rate, scale } from '../format.mjs';
import { fillsSentence } from '../sentences.mjs';
import { faded } from '../theme.mjs';
import { Calm, columnMargin, extent, layoutOf, onAxis, phaseMarks, timeAxis, times, valueAxis, windowShape } from './axes.mjs';

/** Where nothing is drawn on the logarithmic axis: half a page per second. */
const FLOOR = 0.5;

/** @returns {import('./axes.mjs').Draw} */
export function fillsOverTimeChart() {
  const calm = new Calm();
  return (view, palette, widthPx) => {
    const fills = view.series.fills ?? { demand: [], background: [] };
    const found = extent([fills.demand, fills.background]);
    const fitted = Math.max(Math.ceil(Math.log10(Math.max(found?.[1] ?? 0, 1)) - 1e-9), 2);
    const [, high] = calm.fit(view.revision, 0, fitted);
    const powers = Array.from({ length: high + 1 }, (_, power) => 10 ** power);
    const x = times(view);
    const margin = columnMargin(view);
    const marks = phaseMarks(view, palette, widthPx - margin.l - margin.r);
    const area = (/** @type {string} */ name, /** @type {(number|null)[]} */ y, /** @type {string} */ colour, /** @type {number} */ alpha) => ({
      type: 'scatter', mode: 'lines', name, x, y: y.map((number) => (number === null ? null : Math.max(number, FLOOR))), connectgaps: false,
      customdata: y.map((number) => `${name} ${rate(number)}`), hovertemplate: '%{customdata}<extra></extra>', line: { color: colour, width: 2, shape: 'hvh' }, fill: 'tozeroy', fillcolor: faded(colour, alpha),
    });
    const left = bytesLeft(view, palette);
    return {
      traces: [area('background', fills.background, palette.background, 0.16), area('demand', fills.demand, palette.demand, 0.3), ...(left ? [left.trace] : [])],
      layout: {
        ...layoutOf(palette), margin: { ...margin, t: margin.t + marks.roomPx },
        xaxis: timeAxis(view, palette, { nticks: 9 }),
        yaxis: valueAxis(palette, { values: [FLOOR, ...powers], labels: ['0', ...powers.map((power) => (power === 1 ? '' : compact(power).replace(/\.0+/, '')))] }, { type: 'log', range: [Math.log10(FLOOR), high + 0.06] }),
        ...(left ? { yaxis2: left.axis } : {}),
        shapes: [windowShape(view, palette), ...marks.shapes], annotations: marks.annotations,
      },
      note: found && found[1] > 0 ? undefined : 'No page placed in this time',
      summary: `Pages placed per second, over time. ${fillsSentence(view)}`,
    };
  };
}

/** QEMU's own line, on an axis of its own at the right. @param {import('./axes.mjs').View} view @param {import('./axes.mjs').Palette} palette */
function bytesLeft(view, palette) {
  const fromNs = view.series.endNs - view.spanNs;
  const at = onAxis(view);
  const told = [...(view.known?.of.entries() ?? [])].filter(([, samples]) => samples.some((each) => each.at_ns >= fromNs && typeof each.remaining_bytes === 'number'));
  if (!told.length) return null;
  const points = told.flatMap(([, samples], index) => [...(index ? [{ at_ns: samples[0].at_ns, remaining_bytes: null }] : []), ...samples]);
  const y = points.map(({ remaining_bytes: left }) => left);
  const ticks = scale(Math.max(...y.map((left) => left ?? 0), 1), bytes, 4);
  return {
    trace: {
      type: 'scatter', mode: 'lines', name: 'left', yaxis: 'y2', x: points.map(({ at_ns: ns }) => at(ns)), y, connectgaps: false,
      customdata: y.map((left) => (left === null ? '' : `QEMU: ${bytes(left)} left`)), hovertemplate: '%{customdata}<extra></extra>', line: { color: palette.text, width: 1.75, dash: '6px,3px' },
    },
    axis: { ...valueAxis(palette, ticks, { range: [0, ticks.high * 1.04] }), overlaying: 'y', side: 'right', showgrid: false },
  };
}
