// @ts-check
/** Time × guest memory: which part of it is asked for, in coarse bins, by memslot. */
import { binary, compact, count } from '../format.mjs';
import { binAt, edgeOf, memoryOf, slotOf, ticksOf } from '../gpa.mjs';
import { Calm, cellClock, colourBar, columnMargin, layoutOf, phaseMarks, timeAxis, times } from './axes.mjs';

/** Height of a label with some room, px. */
const LABEL_PX = 30;

/** Computed once per series: drawing and pointing both want it. @type {WeakMap<object, import('../gpa.mjs').Memory|null>} */
const made = new WeakMap();

/** @param {import('./axes.mjs').View} view */
function memory(view) {
  const { gpa } = view.series;
  if (!made.has(gpa)) made.set(gpa, memoryOf(gpa, view.frame.memslots ?? []));
  return made.get(gpa) ?? null;
}

/** Size of a bin, in words. @param {import('./axes.mjs').View} view */
export const gpaBin = (view) => binary(memory(view)?.binBytes);

/** @returns {import('./axes.mjs').Draw} */
export function gpaChart() {
  const calm = new Calm(20);
  return (view, palette, widthPx, heightPx = 220) => {
    const found = memory(view);
    const margin = columnMargin(view);
    const marks = phaseMarks(view, palette, widthPx - margin.l - margin.r, { over: true });
    const layout = {
      ...layoutOf(palette), hovermode: 'closest', margin: { ...margin, t: margin.t + marks.roomPx },
      xaxis: timeAxis(view, palette, { nticks: 9 }),
      annotations: marks.annotations,
    };
    if (!found) return { traces: [{ type: 'scatter', x: [], y: [] }], layout: { ...layout, yaxis: { visible: false }, shapes: marks.shapes }, note: 'No fault with an address in this time', summary: 'Guest memory asked for: none in this time.' };
    const [, high] = calm.fit(view.revision, 0, Math.max(Math.ceil(Math.log10(found.most) - 1e-9), 1));
    const powers = Array.from({ length: high + 1 }, (_, power) => power);
    const ticks = ticksOf(found, Math.max(2, Math.floor((heightPx - 40) / LABEL_PX)));
    const tiled = found.rows.length <= 16 ? 1 : 0;
    return {
      traces: [{
        type: 'heatmap', x: times(view), y: found.rows.map((_, row) => row), z: found.rows.map((row) => row.map((faults) => (faults === null ? null : Math.log10(faults)))),
        zmin: 0, zmax: high, colorscale: palette.heat, zsmooth: false, hoverinfo: 'none', hoverongaps: false, ygap: tiled, xgap: tiled && view.series.timesNs.length <= 150 ? 1 : 0,
        colorbar: colourBar(palette, { values: powers, labels: powers.map((power) => compact(10 ** power).replace(/\.0+/, '')) }),
      }],
      layout: {
        ...layout,
        yaxis: {
          range: [-0.5, found.rows.length - 0.5], tickmode: 'array', tickvals: ticks.map(({ row }) => row), ticktext: ticks.map(({ gpa }) => binary(gpa)), showgrid: false, zeroline: false,
          fixedrange: found.rows.length <= 16, ticklabeloverflow: 'allow', ticks: 'outside', ticklen: 4, tickcolor: palette.grid,
        },
        shapes: [...cuts(found, palette), ...slotBorders(view, found, palette), ...marks.shapes],
      },
      summary: `Guest memory asked for, over time, in bins of ${binary(found.binBytes)}; ${count(found.rows.length)} of them from ${binary(found.stretches[0].from * found.binBytes)} on.`,
    };
  };
}

/** A band across where the axis leaves memory out. @param {import('../gpa.mjs').Memory} found @param {import('./axes.mjs').Palette} palette */
function cuts({ stretches }, palette) {
  return stretches.slice(1).map(({ row }) => ({ type: 'rect', layer: 'below', xref: 'x domain', yref: 'y', x0: 0, x1: 1, y0: row - 1.5, y1: row - 0.5, line: { width: 0 }, fillcolor: palette.grid }));
}

/** @param {import('./axes.mjs').View} view @param {import('../gpa.mjs').Memory} found @param {import('./axes.mjs').Palette} palette */
function slotBorders(view, found, palette) {
  const begins = new Set((view.frame.memslots ?? []).map((/** @type {any} */ slot) => edgeOf(found, Number(slot.from_gpa))));
  return [...begins].filter((row) => row !== null && row > 0).map((row) => ({ type: 'line', layer: 'above', xref: 'x domain', yref: 'y', x0: 0, x1: 1, y0: row, y1: row, line: { color: palette.muted, width: 1, dash: '2px,2px' } }));
}

/** What the hovered cell says. @param {import('./axes.mjs').View} view @param {import('./axes.mjs').Cell} point */
export function gpaReadout(view, point) {
  const found = memory(view);
  const bin = found && binAt(found, point.y);
  if (!found || bin === null) return '';
  const slots = slotOf(found, view.frame.memslots ?? [], bin);
  const where = `${binary(bin * found.binBytes)} to ${binary((bin + 1) * found.binBytes)}`;
  return `${where}${slots ? ` · slot ${slots.join(', ')}` : ''} · ${cellClock(view, point)} · ${count(Math.round(10 ** point.z))} faults`;
}
