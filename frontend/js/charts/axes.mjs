// @ts-check
/** What all charts share: the bare layout, the time axis with the window shaded, and ranges that don't jump. */
import { plain, stamp } from '../format.mjs';
import { bandsOf, phaseColour } from '../phases.mjs';
import { faded } from '../theme.mjs';
import { aheadMs } from '../zone.mjs';

/**
 * What a chart draws from.
 * @typedef {object} View
 * @property {Record<string, any>} frame  S4 frame
 * @property {import('../series.mjs').Series} series
 * @property {number} windowNs @property {number} spanNs @property {number} clockMs
 * @property {string} revision  changes when a zoom makes no sense any more
 * @property {import('../samples.mjs').Samples} [known]  what QEMU said of each migration over time
 *
 * What a chart answers: Plotly's traces and layout, the same in a sentence, a note in place of an
 * empty picture, and the modes that its legend names.
 * @typedef {{traces: object[], layout: Record<string, any>, summary: string, note?: string, legend?: string[]}} Figure
 * @typedef {import('../theme.mjs').Palette} Palette
 * @typedef {(view: View, palette: Palette, widthPx: number, heightPx?: number) => Figure} Draw
 */

/** @param {Palette} palette @returns {Record<string, any>} */
export function layoutOf(palette) {
  return {
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    font: { family: palette.font, size: 11, color: palette.muted },
    margin: { l: 56, r: 12, t: 8, b: 26 },
    showlegend: false,
    hovermode: 'x unified',
    hoverlabel: { bgcolor: palette.card, bordercolor: palette.grid, font: { family: palette.font, size: 12, color: palette.text } },
    dragmode: 'zoom',
    bargap: 0.3,
  };
}

/** A time axis shorter than this has fractions of a second on it. */
const SHORT_NS = 6e9;

/**
 * What places a moment of the host on Plotly's date axis. A picture has one distance from UTC, that of its right edge: an
 * hour that the clock takes twice would fold the axis.
 * @param {View} view @returns {(ns: number) => string}
 */
export function onAxis({ series, clockMs }) {
  const shownMs = clockMs + aheadMs(series.endNs / 1e6 + clockMs);
  return (ns) => stamp(ns / 1e6 + shownMs);
}

/** The moments of the columns on Plotly's date axis. @param {View} view */
export const times = (view) => view.series.timesNs.map(onAxis(view));

/** A cell of a heat map as Plotly names it: `pointNumber` is its row and its column. @typedef {{y: number, z: number, pointNumber: [number, number]}} Cell */

/** The clock of a cell's column, as its axis has it. @param {View} view @param {Cell} cell */
export const cellClock = (view, { pointNumber: [, column] }) => onAxis(view)(view.series.timesNs[column]).slice(11, 19);

/** @param {View} view @param {Palette} palette @param {Record<string, any>} [more] */
export function timeAxis(view, palette, more = {}) {
  const at = onAxis(view);
  const format = view.spanNs < SHORT_NS ? '%H:%M:%S.%2f' : '%H:%M:%S';
  return {
    type: 'date', range: [at(view.series.endNs - view.spanNs), at(view.series.endNs)], tickformat: format, hoverformat: format, nticks: 6, tickangle: 0,
    // Measuring labels is slow, and while time moves on they would come and go at the edges.
    ticklabeloverflow: view.frame.at_rest ? 'hide past domain' : 'allow', showgrid: false, zeroline: false, spikecolor: palette.muted, spikethickness: 1, spikedash: 'solid', showline: true, linecolor: palette.grid, ticks: 'outside', ticklen: 4, tickcolor: palette.grid,
    ...more,
  };
}

/** A value axis with ready-made ticks. @param {Palette} palette @param {{values: number[], labels: string[]}} ticks @param {Record<string, any>} more */
export function valueAxis(palette, ticks, more) {
  return {
    tickmode: 'array', tickvals: ticks.values, ticktext: ticks.labels, gridcolor: palette.grid, gridwidth: 1,
    zeroline: false, showline: false, fixedrange: true, ticklabeloverflow: 'allow', ...more,
  };
}

/** What the colours of a heat map stand for, beside it. @param {Palette} palette @param {{values: number[], labels: string[]}} [ticks] */
export function colourBar(palette, ticks) {
  return {
    thickness: 10, outlinewidth: 0, len: 1, x: 1.005, xpad: 6, ypad: 0, tickfont: { color: palette.muted, size: 11 }, ticklabeloverflow: 'allow',
    ...(ticks ? { tickmode: 'array', tickvals: ticks.values, ticktext: ticks.labels } : { nticks: 5 }),
  };
}

/** The window that the numbers on the page are about, shaded. @param {View} view @param {Palette} palette @param {string} [xref] */
export function windowShape(view, palette, xref = 'x') {
  const at = onAxis(view);
  return {
    type: 'rect', layer: 'below', xref, yref: `${xref === 'x' ? 'x' : xref} domain`.replace('x', 'y'),
    x0: at(view.series.endNs - view.windowNs), x1: at(view.series.endNs), y0: 0, y1: 1, line: { width: 0 }, fillcolor: palette.window,
  };
}

/** Width of a phase's label, px, below which it is left out. */
const LABEL_PX = 10;

/**
 * The phases of the migrations in sight, on the clock of a chart: a shade, a line where each begins, its name above.
 * @param {View} view @param {Palette} palette @param {number} widthPx of the time axis
 * @param {{xref?: string, inside?: boolean, over?: boolean}} [how] `inside`: names within the chart; `over`: the chart hides what is below it
 * @returns {{shapes: object[], annotations: object[], roomPx: number}} roomPx: what the names need above the chart
 */
export function phaseMarks(view, palette, widthPx, { xref = 'x', inside = false, over = false } = {}) {
  const beginNs = view.series.endNs - view.spanNs;
  const bands = bandsOf(view.frame, beginNs, view.series.endNs);
  const yref = `${xref} domain`.replace('x', 'y');
  const at = onAxis(view);
  const shapes = bands.flatMap((band) => {
    const colour = palette.phases[phaseColour(band.name)];
    const shade = { type: 'rect', layer: 'below', xref, yref, x0: at(band.fromNs), x1: at(band.toNs), y0: 0, y1: 1, line: { width: 0 }, fillcolor: faded(colour, 0.13) };
    const edge = (/** @type {number} */ ns) => ({ type: 'line', layer: over ? 'above' : 'below', xref, yref, x0: at(ns), x1: at(ns), y0: 0, y1: 1, line: { color: colour, width: over ? 1.5 : 1 } });
    const bar = { ...shade, layer: 'above', ysizemode: 'pixel', yanchor: 1, y0: 0, y1: 3, fillcolor: colour };
    return [over ? bar : shade, ...(band.fromNs > beginNs ? [edge(band.fromNs)] : []), ...(band.open || band.toNs >= view.series.endNs ? [] : [edge(band.toNs)])];
  });
  const left = (/** @type {number} */ ns) => ((ns - beginNs) / view.spanNs) * widthPx;
  /** @type {[number, number][]} */
  const taken = [];
  const annotations = [...bands].sort((one, other) => other.toNs - other.fromNs - (one.toNs - one.fromNs)).flatMap((band) => {
    const roomPx = band.label.length * CHARACTER_PX + LABEL_PX;
    // The longest phase has its name first; at the right edge it ends there; one that would run into another's has none.
    const late = left(band.fromNs) + roomPx > widthPx;
    const from = late ? widthPx - roomPx : left(band.fromNs);
    if (taken.some(([low, high]) => from < high && from + roomPx > low)) return [];
    taken.push([from, from + roomPx]);
    return [{
      text: plain(band.label), showarrow: false, xref, x: at(late ? view.series.endNs : band.fromNs), xanchor: late ? 'right' : 'left', xshift: late ? 0 : 1, yref, y: 1, yanchor: inside ? 'top' : 'bottom', borderpad: 1, yshift: over ? 2 : 0,
      font: { size: 11, color: palette.phaseTexts[phaseColour(band.name)] }, ...(inside ? { bgcolor: faded(palette.card, 0.8) } : {}),
    }];
  });
  return { shapes, annotations, roomPx: annotations.length && !inside ? 12 : 0 };
}

/**
 * Room beside the charts over time that stand above each other: they share one clock, so their axes must, too.
 * @param {View} view
 */
export function columnMargin(view) {
  const several = view.frame.vm === 'all' && new Set((view.frame.vcpus ?? []).map((/** @type {any} */ row) => row.vm)).size > 1;
  return { l: several ? 122 : 56, r: 80, t: 6, b: 26 };
}

/** Widest character of a label on a bar, px: better no label than one that overflows. */
const CHARACTER_PX = 6.6;

/** The first of the labels that fits a bar of this width, or none. @param {number} widthPx @param {string[]} labels */
export function fitting(widthPx, labels) {
  return labels.find((label) => label.length * CHARACTER_PX + 8 <= widthPx) ?? '';
}

/** How labels stand on bars; Plotly's own fitting measures every text and is slow. */
export const ON_BAR = { textposition: 'inside', insidetextanchor: 'middle', textangle: 0, constraintext: 'none' };

/** A range that grows at once and shrinks only after it has been too wide for a while. */
export class Calm {
  /** @param {number} [patience] updates before it shrinks */
  constructor(patience = 12) {
    this.patience = patience;
    this.revision = '';
    this.low = Infinity;
    this.high = -Infinity;
    this.waited = 0;
  }

  /** @param {string} revision @param {number} low @param {number} high @returns {[number, number]} */
  fit(revision, low, high) {
    const narrower = low > this.low || high < this.high;
    this.waited = narrower && !(low < this.low || high > this.high) ? this.waited + 1 : 0;
    if (revision !== this.revision || this.waited > this.patience) {
      [this.low, this.high, this.waited] = [low, high, 0];
    } else {
      [this.low, this.high] = [Math.min(low, this.low), Math.max(high, this.high)];
    }
    this.revision = revision;
    return [this.low, this.high];
  }
}

/** Smallest and largest number among them. @param {(number|null)[][]} lists @returns {[number, number]|null} */
export function extent(lists) {
  let low = Infinity;
  let high = -Infinity;
  for (const list of lists) {
    for (const value of list) {
      if (value === null) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : null;
}
