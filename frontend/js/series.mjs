// @ts-check
/** From ticks to what the charts over time draw: equidistant columns with gaps where nothing was measured. Pure. */
import { MODES } from './words.mjs';

/** More columns than this cost more to draw than a screen can show. */
export const MAX_COLUMNS = 300;
const TICK_NS = 1e9;
const PERCENTILES = /** @type {const} */ (['p50', 'p90', 'p99', 'max']);

/** Lengths of time that the charts over time may show. */
const SPANS_NS = [30e9, 60e9, 120e9, 180e9, 360e9, 900e9];

/**
 * The charts over time show six windows, at least two minutes; less while there is less to show, never less than the window.
 * @param {number} windowNs @param {import('./state.mjs').Tick[]} ticks
 */
export function spanOf(windowNs, ticks) {
  const wantedNs = Math.min(Math.max(6 * windowNs, 120e9), 900e9);
  const heldNs = ticks.length ? ticks[ticks.length - 1].time_ns - ticks[0].time_ns + TICK_NS : 0;
  const enoughNs = SPANS_NS.find((ns) => ns >= Math.max(heldNs, windowNs)) ?? wantedNs;
  return Math.min(wantedNs, enoughNs);
}

/**
 * @typedef {{rate: (number|null)[], p50: (number|null)[], p90: (number|null)[], p99: (number|null)[], max: (number|null)[]}} ModeSeries
 * @typedef {object} Series
 * @property {number[]} timesNs  middle of each column
 * @property {number} columnNs  width of a column; wider than a tick, it holds the worst tick (and the mean rate)
 * @property {number} endNs  right edge
 * @property {Record<string, ModeSeries>} modes  only modes that had a fault
 * @property {{pending: (number|null)[], total: (number|null)[]}} queue
 * @property {(number|null)[][]} heat  [vCPU row][column], p99 in ns
 * @property {(number|null)[][]} stall  [vCPU row][column], 0 to 1
 * @property {{mean: (number|null)[], peak: (number|null)[], vcpus: (number|null)[]}|null} stalled  vCPUs standing still at once, of how many; null: no tick says
 * @property {{demand: (number|null)[], background: (number|null)[]}|null} fills  pages placed per second; null: no tick says
 * @property {GpaTick[][]} gpa  of each column what its ticks say of guest memory
 */

/** Faults by guest memory: sparse [bin index, faults], a bin `bin_bytes` wide. @typedef {{bin_bytes: number, cells: [number, number][]}} GpaTick */

/**
 * @param {import('./state.mjs').Tick[]} ticks oldest first @param {number} spanNs
 * @returns {Series}
 */
export function seriesOf(ticks, spanNs) {
  const last = ticks.length ? ticks[ticks.length - 1].time_ns : 0;
  const perColumn = Math.max(1, Math.ceil(spanNs / TICK_NS / MAX_COLUMNS));
  const columnNs = perColumn * TICK_NS;
  const columns = Math.ceil(spanNs / columnNs);
  // One tick a column: columns follow the ticks. Several: columns lie still, so that old ones never change.
  const phaseNs = perColumn === 1 ? last : Math.floor(last / columnNs) * columnNs + columnNs / 2;
  /** @type {import('./state.mjs').Tick[][]} */
  const groups = Array.from({ length: columns }, () => []);
  for (const tick of ticks) {
    const column = columns - 1 + Math.round((tick.time_ns - phaseNs) / columnNs);
    if (column >= 0 && column < columns) groups[column].push(tick);
  }
  return fromGroups(groups, groups.map((_, index) => phaseNs + (index - columns + 1) * columnNs), columnNs, TICK_NS);
}

/**
 * The columns of a recording's summary: the server has made them already.
 * @param {import('./state.mjs').Tick[]} ticks each a column, equidistant, `time_ns` its middle @param {number} columnNs
 * @returns {Series}
 */
export function seriesOfColumns(ticks, columnNs) {
  return fromGroups(ticks.map((tick) => [tick]), ticks.map((tick) => tick.time_ns), columnNs, columnNs);
}

/** @param {import('./state.mjs').Tick[][]} groups @param {number[]} timesNs @param {number} columnNs @param {number} tickNs @returns {Series} */
function fromGroups(groups, timesNs, columnNs, tickNs) {
  return {
    timesNs,
    columnNs,
    endNs: (timesNs.at(-1) ?? 0) + columnNs / 2,
    modes: modesOf(groups),
    queue: {
      pending: groups.map((group) => worst(group.map((tick) => tick.queue?.pending))),
      total: groups.map((group) => worst(group.map((tick) => tick.queue?.total))),
    },
    heat: rowsOf(groups, 'heat'),
    stall: rowsOf(groups, 'stall'),
    stalled: stalledOf(groups),
    fills: fillsOf(groups, tickNs),
    gpa: groups.map((group) => group.flatMap((tick) => tick.gpa ?? [])),
  };
}

/** @param {import('./state.mjs').Tick[][]} groups @returns {Series['stalled']} */
function stalledOf(groups) {
  const told = groups.map((group) => group.flatMap((tick) => tick.stalled ?? []));
  if (!told.some((group) => group.length)) return null;
  const average = (/** @type {'mean'|'vcpus'} */ name) => told.map((group) => (group.length ? group.reduce((sum, each) => sum + each[name], 0) / group.length : null));
  return { mean: average('mean'), peak: told.map((group) => worst(group.map(({ peak }) => peak))), vcpus: average('vcpus') };
}

/** @param {import('./state.mjs').Tick[][]} groups @param {number} tickNs @returns {Series['fills']} */
function fillsOf(groups, tickNs) {
  const told = groups.map((group) => group.flatMap((tick) => tick.fills ?? []));
  if (!told.some((group) => group.length)) return null;
  const perSecond = (/** @type {'demand'|'background'} */ kind) => told.map((group) => (group.length ? (group.reduce((sum, fills) => sum + fills[kind], 0) * 1e9) / (group.length * tickNs) : null));
  return { demand: perSecond('demand'), background: perSecond('background') };
}

/** The largest of the numbers among them, null if there is none. @param {(number|null|undefined)[]} values */
function worst(values) {
  let largest = null;
  for (const value of values) if (typeof value === 'number' && (largest === null || value > largest)) largest = value;
  return largest;
}

/** @param {import('./state.mjs').Tick[][]} groups @returns {Record<string, ModeSeries>} */
function modesOf(groups) {
  /** @type {Record<string, ModeSeries>} */
  const modes = {};
  for (const mode of MODES) {
    const rate = groups.map((group) =>
      group.length ? group.reduce((sum, tick) => sum + (tick.modes[mode]?.rate_per_s ?? 0), 0) / group.length : null);
    if (!rate.some((value) => value)) continue;
    const lines = PERCENTILES.map((name) => [name, groups.map((group) => worst(group.map((tick) =>
      (tick.modes[mode]?.rate_per_s ? tick.modes[mode][name] : null))))]);
    modes[mode] = /** @type {ModeSeries} */ ({ rate, ...Object.fromEntries(lines) });
  }
  return modes;
}

/** @param {import('./state.mjs').Tick[][]} groups @param {'heat'|'stall'} name @returns {(number|null)[][]} */
function rowsOf(groups, name) {
  const rows = groups.flat().reduce((most, tick) => Math.max(most, tick[name]?.length ?? 0), 0);
  return Array.from({ length: rows }, (_, row) => groups.map((group) => worst(group.map((tick) => tick[name]?.[row]))));
}
