// @ts-check
/** Guest memory on one axis: bins of one size, the parts that nobody asks for left out. Pure. */

/** More rows than this are not told apart. */
const MOST_ROWS = 160;
/** Never finer: a guest's addresses are its own business. */
const COARSE_BYTES = 256 * 1024;
/** Bins without a fault that still belong to what is around them; a longer gap is cut out. */
const GAP_BINS = 4;

/**
 * @typedef {{memslot: number, from_gpa: number, to_gpa: number, vm?: string}} Memslot  to_gpa: exclusive
 * @typedef {{row: number, from: number, to: number}} Stretch  bins `from` to `to` (inclusive) from `row` up
 * @typedef {object} Memory
 * @property {number} binBytes
 * @property {Stretch[]} stretches  lowest first, one empty row between them
 * @property {(number|null)[][]} rows  [row][column], faults; null: none
 * @property {number} most  faults in the fullest cell
 */

/** A gpa as a number; the server writes addresses as text. @param {unknown} value */
const number = (value) => Number(value);

/**
 * Puts the columns' sparse cells on rows of one bin size.
 * @param {import('./series.mjs').GpaTick[][]} columns @param {Memslot[]} [memslots]
 * @returns {Memory|null} null when no column has a fault
 */
export function memoryOf(columns, memslots = []) {
  const ticks = columns.flat().filter(({ cells }) => cells.length);
  if (!ticks.length) return null;
  let binBytes = ticks.reduce((most, tick) => Math.max(most, tick.bin_bytes), COARSE_BYTES);
  let touched = new Set(/** @type {number[]} */ ([]));
  for (const tick of ticks) for (const [cell] of tick.cells) touched.add(Math.floor((cell * tick.bin_bytes) / binBytes));
  let stretches = stretchesOf(touched, memslots, binBytes);
  while (height(stretches) > MOST_ROWS) {
    binBytes *= 2;
    touched = new Set([...touched].map((bin) => Math.floor(bin / 2)));
    stretches = stretchesOf(touched, memslots, binBytes);
  }
  const rowOfBin = new Map([...touched].map((bin) => [bin, rowOf(stretches, bin)]));
  const rows = Array.from({ length: height(stretches) }, () => /** @type {(number|null)[]} */ (new Array(columns.length).fill(null)));
  let most = 0;
  columns.forEach((column, index) => {
    for (const tick of column) {
      for (const [cell, faults] of tick.cells) {
        const row = rows[/** @type {number} */ (rowOfBin.get(Math.floor((cell * tick.bin_bytes) / binBytes)))];
        row[index] = (row[index] ?? 0) + faults;
        most = Math.max(most, row[index] ?? 0);
      }
    }
  });
  return { binBytes, stretches, rows, most };
}

/** @param {Stretch[]} stretches */
function height(stretches) {
  const last = stretches[stretches.length - 1];
  return last.row + last.to - last.from + 1;
}

/** @param {Stretch[]} stretches @param {number} bin one that is in them */
function rowOf(stretches, bin) {
  const found = /** @type {Stretch} */ (stretches.find(({ to }) => bin <= to));
  return found.row + bin - found.from;
}

/** @param {Set<number>} touched bins with faults @param {Memslot[]} memslots @param {number} binBytes @returns {Stretch[]} */
function stretchesOf(touched, memslots, binBytes) {
  const parts = [
    ...memslots.map((slot) => [Math.floor(number(slot.from_gpa) / binBytes), Math.ceil(number(slot.to_gpa) / binBytes) - 1]),
    ...[...touched].map((bin) => [bin, bin]),
  ].filter(([from, to]) => to >= from).sort((a, b) => a[0] - b[0]);
  /** @type {Stretch[]} */
  const stretches = [];
  for (const [from, to] of parts) {
    const last = stretches.at(-1);
    if (last && from <= last.to + 1 + GAP_BINS) last.to = Math.max(last.to, to);
    else stretches.push({ row: last ? last.row + last.to - last.from + 2 : 0, from, to });
  }
  // A row's number follows from the lengths below it, and those grew while the list was made.
  stretches.forEach((stretch, index) => {
    const below = stretches[index - 1];
    stretch.row = below ? below.row + below.to - below.from + 2 : 0;
  });
  return stretches;
}

/** The bin of a row, null between stretches. @param {Memory} memory @param {number} row */
export function binAt({ stretches }, row) {
  const found = stretches.find((stretch) => row >= stretch.row && row <= stretch.row + stretch.to - stretch.from);
  return found ? found.from + row - found.row : null;
}

/** Where a gpa begins on the axis of rows: the lower edge of its bin; null if it is cut out. @param {Memory} memory @param {number} gpa */
export function edgeOf({ stretches, binBytes }, gpa) {
  const bin = Math.floor(gpa / binBytes);
  const found = stretches.find(({ from, to }) => bin >= from && bin <= to + 1);
  return found ? found.row + bin - found.from - 0.5 : null;
}

/** The slot in which a bin lies, null if none is known. @param {Memory} memory @param {Memslot[]} memslots @param {number} bin */
export function slotOf({ binBytes }, memslots, bin) {
  const [from, to] = [bin * binBytes, (bin + 1) * binBytes];
  const found = memslots.filter((slot) => number(slot.from_gpa) < to && number(slot.to_gpa) > from);
  return found.length ? [...new Set(found.map((slot) => slot.memslot))] : null;
}

/** Rows to label: the begin of every stretch, and round addresses between. @param {Memory} memory @param {number} labels about so many @returns {{row: number, gpa: number}[]} */
export function ticksOf({ stretches, binBytes, rows }, labels) {
  const least = rows.length / labels;
  const step = 2 ** Math.ceil(Math.log2(Math.max(least, 1)));
  /** @type {{row: number, gpa: number}[]} */
  const ticks = [];
  for (const { row, from, to } of stretches) {
    const first = row - 0.5;
    if (ticks.length && first - ticks[ticks.length - 1].row < least * 0.6) continue;
    ticks.push({ row: first, gpa: from * binBytes });
    for (let bin = (Math.floor(from / step) + 1) * step; bin <= to; bin += step) {
      const at = row + bin - from - 0.5;
      if (at - ticks[ticks.length - 1].row >= least * 0.6) ticks.push({ row: at, gpa: bin * binBytes });
    }
  }
  const [end, last] = [rows.length - 0.5, stretches[stretches.length - 1]];
  if (end - ticks[ticks.length - 1].row >= least * 0.6) ticks.push({ row: end, gpa: (last.to + 1) * binBytes });
  return ticks;
}
