// @ts-check
/** Time × vCPU: the p99 latency of every second, or the age of a fault that is open longer, on a logarithmic colour scale. */
import { decades, duration, plain, vcpuCount } from '../format.mjs';
import { uncountedVms } from '../gaps.mjs';
import { Calm, cellClock, colourBar, columnMargin, layoutOf, phaseMarks, timeAxis, times } from './axes.mjs';

/** Up to this many rows, cells are drawn as tiles with a gap; beyond it as one image. */
export const TILED_ROWS = 16;
const MOST_LABELS = 16;

/** @returns {import('./axes.mjs').Draw} */
export function heatChart() {
  const calm = new Calm(20);
  return (view, palette, widthPx) => {
    const margin = columnMargin(view);
    const marks = phaseMarks(view, palette, widthPx - margin.l - margin.r, { over: true });
    const rows = view.series.heat;
    const logs = rows.map((row) => row.map((ns) => (ns === null ? null : Math.log10(ns))));
    const found = spread(logs);
    const [lowNs, highNs] = found ?? [1e4, 1e7];
    const fitted = decades(lowNs, highNs);
    const [low, high] = calm.fit(view.revision, fitted.low, fitted.high);
    const ticks = decades(10 ** low, 10 ** high);
    const vcpus = vcpusOf(view);
    const several = view.frame.vm === 'all' && vcpus.some((row) => row.vm !== vcpus[0].vm);
    const gap = rows.length <= TILED_ROWS ? 1 : 0;
    return {
      traces: [{
        type: 'heatmap', x: times(view), y: rows.map((_, row) => row), z: logs,
        hoverinfo: 'none', hoverongaps: false,
        zmin: low - 1e-6, zmax: high + 1e-6, colorscale: palette.heat, xgap: gap && view.series.timesNs.length <= 150 ? 1 : 0, ygap: gap, zsmooth: false,
        colorbar: colourBar(palette, { values: ticks.values.map(Math.log10), labels: ticks.labels }),
      }],
      layout: {
        ...layoutOf(palette), hovermode: 'closest', margin: { ...margin, t: margin.t + marks.roomPx }, shapes: marks.shapes, annotations: marks.annotations,
        xaxis: timeAxis(view, palette, { nticks: 9 }),
        yaxis: { ticklabeloverflow: 'allow', range: [-0.5, Math.max(rows.length, 1) - 0.5], showgrid: false, zeroline: false, fixedrange: rows.length <= TILED_ROWS, ticklabelstandoff: 6, ...rowTicks(vcpus, several), ticks: '' },
      },
      note: found ? undefined : 'No fault in this time',
      summary: summary(rows, vcpus),
    };
  };
}

/**
 * About a dozen labelled rows, the first always among them; of several VMs the first row of each.
 * @param {Row[]} vcpus @param {boolean} several
 */
export function rowTicks(vcpus, several) {
  const step = [1, 2, 4, 8, 16, 32, 64, 128].find((size) => vcpus.length / size <= MOST_LABELS) ?? 256;
  let shown = vcpus.map((_, row) => row).filter((row) => row % step === 0);
  if (several && step > 1) {
    const first = vcpus.map((_, row) => row).filter((row) => vcpus[row].vm !== vcpus[row - 1]?.vm);
    const every = Math.ceil(first.length / MOST_LABELS);
    shown = first.filter((_, index) => index % every === 0);
  }
  return { tickmode: 'array', tickvals: shown, ticktext: shown.map((row) => (several ? plain(vcpus[row].uncounted ? `${cut(vcpus[row].vm_name, 6)}: not counted` : `${cut(vcpus[row].vm_name)} ${vcpus[row].vcpu}`) : String(vcpus[row].vcpu))) };
}

/** @param {string} name @param {number} [most] */
const cut = (name, most = 12) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);

/**
 * From the decade of the 1st percentile to the largest cell, ns: a few odd low cells must not take half of the colours.
 * Sorting all cells of 256 vCPUs took a quarter of the whole drawing. @param {(number|null)[][]} logs log10(ns)
 */
function spread(logs) {
  const inDecade = new Uint32Array(20);
  let most = -Infinity;
  for (const row of logs) {
    for (const log of row) {
      if (log === null || log < 0) continue;
      inDecade[Math.floor(log + 1e-9)] += 1;
      if (log > most) most = log;
    }
  }
  let left = Math.floor(inDecade.reduce((sum, cells) => sum + cells) * 0.01);
  const decade = inDecade.findIndex((cells) => (left -= cells) < 0);
  return decade < 0 ? null : /** @type {[number, number]} */ ([10 ** decade, 10 ** most]);
}

/** @param {(number|null)[][]} rows @param {Row[]} vcpus */
function summary(rows, vcpus) {
  let worst = -1;
  let longest = 0;
  rows.forEach((row, index) => {
    const ns = row.at(-1) ?? 0;
    if (ns > longest) [worst, longest] = [index, ns];
  });
  return worst < 0
    ? `Latency per vCPU over time, ${vcpuCount(rows.length)}; no fault in the last second.`
    : `Latency per vCPU over time, ${vcpuCount(rows.length)}. Slowest in the last second: vCPU ${vcpus[worst].vcpu}, ${duration(longest)}.`;
}

/** @typedef {{vm: string, vm_name: string, vcpu: number, uncounted: boolean}} Row */

/** Which vCPU each row is: the heat of a tick has the order of the frame's list. @param {import('./axes.mjs').View} view @returns {Row[]} */
export function vcpusOf(view) {
  const uncounted = uncountedVms(view.frame);
  return view.series.heat.map((_, row) => {
    const { vm = '', vm_name: name, vcpu = row } = view.frame.vcpus?.[row] ?? {};
    return { vm, vm_name: name ?? vm, vcpu, uncounted: uncounted.has(vm) };
  });
}

/** What the hovered cell says. @param {import('./axes.mjs').View} view @param {import('./axes.mjs').Cell} point */
export function readout(view, point) {
  const row = vcpusOf(view)[point.y];
  const vm = view.frame.vm === 'all' && row?.vm_name ? `${row.vm_name} ` : '';
  return `${vm}vCPU ${row?.vcpu ?? point.y} · ${cellClock(view, point)} · ${duration(10 ** point.z)}`;
}
