// @ts-check
/** A recording on one strip: where its faults are dense, mode upon mode. */
import { MODES } from './words.mjs';

const SVG = 'http://www.w3.org/2000/svg';

/**
 * @typedef {object} Overview  a recording as a whole
 * @property {number} fromNs @property {number} toNs  CLOCK_MONOTONIC of the traced host
 * @property {{fromNs: number, rates: Record<string, number>}[]} columns  faults per second and mode, oldest first
 * @property {number} columnNs
 */

/** @param {Record<string, any>} summary GET …/summary of the whole recording @returns {Overview} */
export function overviewOf(summary) {
  const columnNs = summary.tick_ns;
  return {
    fromNs: summary.from_ns, toNs: summary.to_ns, columnNs,
    columns: (summary.ticks ?? []).map((/** @type {any} */ tick) => ({
      fromNs: tick.time_ns - columnNs / 2,
      rates: Object.fromEntries(Object.entries(tick.modes ?? {}).map(([mode, values]) => [mode, /** @type {any} */ (values).rate_per_s ?? 0])),
    })),
  };
}

/**
 * Height of a rate: the root, so that a quiet stretch beside a storm is still seen.
 * @param {number} rate @param {number} most
 */
const height = (rate, most) => (most > 0 ? Math.sqrt(rate / most) : 0);

/** Draws the strip into the box, over all of its width. @param {HTMLElement} box @param {Overview} overview */
export function drawStrip(box, overview) {
  const lengthNs = Math.max(overview.toNs - overview.fromNs, 1);
  const totals = overview.columns.map(({ rates }) => MODES.reduce((sum, mode) => sum + (rates[mode] ?? 0), 0));
  const most = Math.max(...totals, 0);
  const svg = document.createElementNS(SVG, 'svg');
  for (const [name, value] of [['viewBox', '0 0 1000 100'], ['preserveAspectRatio', 'none'], ['aria-hidden', 'true']]) svg.setAttribute(name, value);
  const below = totals.map(() => 0);
  for (const mode of MODES) {
    const parts = overview.columns.map(({ fromNs, rates }, index) => {
      const rate = rates[mode] ?? 0;
      if (!rate) return '';
      const [low, high] = [below[index], below[index] + height(totals[index], most) * 96 * (rate / totals[index])];
      below[index] = high;
      const x = ((fromNs - overview.fromNs) / lengthNs) * 1000;
      const width = (overview.columnNs / lengthNs) * 1000;
      return `M${x.toFixed(2)} ${(100 - low).toFixed(1)}h${width.toFixed(2)}V${(100 - high).toFixed(1)}h${(-width).toFixed(2)}z`;
    }).join('');
    if (!parts) continue;
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('d', parts);
    path.setAttribute('class', `mode mode-${mode}`);
    svg.append(path);
  }
  box.replaceChildren(svg);
}
