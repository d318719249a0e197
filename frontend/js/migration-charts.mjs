// @ts-check
/** Pictures of one migration: over seconds since its begin, and what they come down to. */
import { colourBar, layoutOf, valueAxis } from './charts/axes.mjs';
import { stallColours } from './charts/stall.mjs';
import { binary, bytes, compact, count, duration, plain, scale, share, vcpuCount } from './format.mjs';
import { phaseColour } from './phases.mjs';

/**
 * @typedef {Record<string, any>} Report  GET /api/v1/recordings/{id}/migrations/{n}/report
 * @typedef {{report: Report, revision: string}} Shown
 * @typedef {import('./theme.mjs').Palette} Palette
 * @typedef {(view: any, palette: Palette, widthPx: number) => import('./charts/axes.mjs').Figure} Draw
 */

/** The same for all charts over time, so that their axes stand below each other. */
const MARGIN = { l: 76, r: 76 };
const NS = 1e9;
/** Rows with a label of their own. */
const MOST_LABELS = 18;

/** More vCPUs than this are dots, not three bars each. */
const MOST_BARS = 24;

export const GROUPS = /** @type {Record<string, string>} */ ({ kernel: 'fill', handler_wait: 'notify', serve: 'serve', wake: 'wake' });

/** @param {Report} report @param {number} ns */
const seconds = (report, ns) => (ns - report.from_ns) / NS;

/** @param {Report} report @param {Palette} palette @param {number} widthPx */
function timeAxis(report, palette, widthPx) {
  const length = Math.max(report.length_ns / NS, 1e-6);
  const steps = scale(length, (value) => `${Number(value.toPrecision(12))}\u00a0s`, Math.max(4, Math.floor(widthPx / 130)));
  return {
    ...valueAxis(palette, steps, { range: [0, length], fixedrange: false, showgrid: false }), hoverformat: '.3f', unifiedhovertitle: { text: '%{x} s' },
    showline: true, linecolor: palette.grid, ticks: 'outside', ticklen: 4, tickcolor: palette.grid,
  };
}

/** In place of a picture that would be empty. @param {Palette} palette @param {string} note @returns {import('./charts/axes.mjs').Figure} */
function nothing(palette, note) {
  return { traces: [], layout: { ...layoutOf(palette), xaxis: { visible: false }, yaxis: { visible: false } }, note, summary: note };
}

/** @param {Report} report @param {{from_ns: number, to_ns: number, tick_ns: number}} part begins of its columns, and the end of the last one */
function edges(report, { from_ns: from, to_ns: to, tick_ns: tick }) {
  const columns = Math.ceil((to - from) / tick);
  return Array.from({ length: columns + 1 }, (_, index) => seconds(report, Math.min(from + index * tick, to)));
}

/** Some of many rows get a label. @param {string[]} names @param {number} [most] */
function labels(names, most = MOST_LABELS) {
  const step = Math.max(1, Math.ceil(names.length / most));
  const values = names.map((_, index) => index).filter((index) => index % step === 0);
  return { values, labels: values.map((index) => plain(names[index])) };
}

/** Whole numbers from 0. @param {number} high */
function whole(high) {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((size) => high / size <= 8) ?? 1000;
  const values = Array.from({ length: Math.floor(high / step) + 1 }, (_, index) => index * step);
  return { values, labels: values.map(String) };
}

/** @returns {Draw} */
export function phasesChart() {
  return ({ report }, palette, widthPx) => {
    const phases = report.phases ?? [];
    if (!phases.length) return nothing(palette, 'No phases are known');
    const perSecond = (widthPx - MARGIN.l - MARGIN.r) / Math.max(report.length_ns / NS, 1e-9);
    return {
      traces: phases.map((/** @type {any} */ phase) => {
        const text = `${phase.name} ${duration(phase.length_ns)}`;
        const room = (phase.length_ns / NS) * perSecond;
        return {
          type: 'bar', orientation: 'h', y: [0], base: [seconds(report, phase.from_ns)], x: [phase.length_ns / NS], width: 1, marker: { color: palette.phases[phaseColour(phase.name)] },
          text: [text.length * 6.6 + 8 < room ? plain(text) : ''], textposition: 'inside', insidetextanchor: 'middle', textfont: { color: palette.ink, size: 12 }, textangle: 0,
          hovertemplate: `${plain(text)}<extra></extra>`,
        };
      }),
      layout: { ...layoutOf(palette), hovermode: 'closest', dragmode: false, barmode: 'overlay', bargap: 0, margin: { ...MARGIN, t: 2, b: 20 }, xaxis: timeAxis(report, palette, widthPx), yaxis: { visible: false, fixedrange: true, range: [-0.5, 0.5] } },
      summary: `Phases: ${phases.map((/** @type {any} */ phase) => `${phase.name} ${duration(phase.length_ns)}`).join(', ')}.`,
    };
  };
}

/** @returns {Draw} */
export function stillChart() {
  return ({ report }, palette, widthPx) => {
    const { brownout } = report;
    if (!brownout.peak) return nothing(palette, 'No vCPU stood still');
    const x = edges(report, brownout);
    const steps = (/** @type {number[]} */ values) => [...values, values.at(-1)];
    return {
      traces: [
        { type: 'scatter', mode: 'lines', name: 'most at once', x, y: steps(brownout.peak_over_time), line: { shape: 'hv', color: palette.muted, width: 1, dash: 'dot' }, hovertemplate: '%{y} at most<extra></extra>' },
        { type: 'scatter', mode: 'lines', name: 'average', x, y: steps(brownout.mean_over_time), fill: 'tozeroy', line: { shape: 'hv', color: palette.stalled, width: 2 }, hovertemplate: '%{y:.2f} on average<extra></extra>' },
      ],
      layout: { ...layoutOf(palette), margin: { ...MARGIN, t: 6, b: 26 }, xaxis: timeAxis(report, palette, widthPx), yaxis: valueAxis(palette, whole(brownout.peak), { range: [0, brownout.peak * 1.06] }) },
      summary: `On average ${brownout.mean.toFixed(2)} of ${vcpuCount(brownout.vcpus)} stood still, ${brownout.peak} at most.`,
    };
  };
}

/** @returns {Draw} */
export function eachChart() {
  return ({ report }, palette, widthPx) => {
    const { brownout, vcpus } = report;
    if (!brownout.peak) return nothing(palette, 'No vCPU stood still');
    const x = edges(report, brownout);
    const names = vcpus.map((/** @type {any} */ row) => `vCPU ${row.vcpu}`);
    return {
      traces: [{
        type: 'heatmap', x, y: Array.from({ length: names.length + 1 }, (_, row) => row - 0.5), z: brownout.stall_over_time, ...stallColours(brownout.stall_over_time, palette), zsmooth: false, ygap: names.length <= 40 ? 1 : 0,
        text: brownout.stall_over_time.map((/** @type {number[]} */ row, /** @type {number} */ index) => row.map((part) => `${names[index]}: ${share(part)}`)), hovertemplate: '%{text}<br>%{x:.3f} s<extra></extra>',
      }],
      layout: { ...layoutOf(palette), hovermode: 'closest', margin: { ...MARGIN, t: 6, b: 26 }, xaxis: timeAxis(report, palette, widthPx), yaxis: valueAxis(palette, labels(names), { range: [names.length - 0.5, -0.5], showgrid: false, fixedrange: names.length <= 40 }) },
      summary: `Share of time that each of ${vcpuCount(names.length)} stood still, over time.`,
    };
  };
}

/** @returns {Draw} */
export function bytesChart() {
  return ({ report }, palette, widthPx) => {
    const known = (/** @type {string} */ name) => (report.samples ?? []).filter((/** @type {any} */ sample) => typeof sample[name] === 'number');
    const [left, rates] = [known('remaining_bytes'), known('bytes_per_s')];
    if (left.length < 2) return nothing(palette, 'QEMU was not asked, or said nothing');
    const line = (/** @type {any[]} */ samples, /** @type {string} */ name, /** @type {(value: number) => string} */ words) => ({
      type: 'scatter', mode: 'lines', x: samples.map((sample) => seconds(report, sample.at_ns)), y: samples.map((sample) => sample[name]), customdata: samples.map((sample) => words(sample[name])),
    });
    const high = Math.max(...left.map((/** @type {any} */ sample) => sample.remaining_bytes), 1);
    const fast = Math.max(...rates.map((/** @type {any} */ sample) => sample.bytes_per_s), 1);
    const [ticks, rateTicks] = [scale(high, bytes), scale(fast, (value) => `${bytes(value)}/s`)];
    return {
      traces: [
        { ...line(left, 'remaining_bytes', bytes), line: { color: palette.sides.a, width: 2 }, fill: 'tozeroy', hovertemplate: '%{customdata} left<extra></extra>' },
        { ...line(rates, 'bytes_per_s', (value) => `${bytes(value)}/s`), yaxis: 'y2', line: { color: palette.sides.b, width: 1.75, dash: '6px,3px' }, hovertemplate: '%{customdata}<extra></extra>' },
      ],
      layout: {
        ...layoutOf(palette), margin: { ...MARGIN, t: 6, b: 26 }, xaxis: timeAxis(report, palette, widthPx),
        yaxis: valueAxis(palette, ticks, { range: [0, ticks.high], tickfont: { color: palette.sides.a, size: 11 } }),
        yaxis2: { ...valueAxis(palette, rateTicks, { range: [0, rateTicks.high], tickfont: { color: palette.sides.b, size: 11 } }), overlaying: 'y', side: 'right', showgrid: false },
      },
      summary: `${bytes(high)} were left at first, sent at up to ${bytes(fast)} per second.`,
    };
  };
}

/** @returns {Draw} */
export function fillsChart() {
  return ({ report }, palette, widthPx) => {
    const { fills } = report;
    if (!fills || !(fills.demand_total || fills.background_total)) return nothing(palette, 'No page was placed, or the recording does not say');
    const middle = fills.demand.map((_, /** @type {number} */ index) => seconds(report, fills.from_ns + (index + 0.5) * fills.tick_ns));
    const high = Math.max(...fills.demand.map((/** @type {number} */ value, /** @type {number} */ index) => value + fills.background[index]), 1);
    const ticks = scale(high, compact);
    const bars = (/** @type {number[]} */ counts, /** @type {string} */ color, /** @type {string} */ name) => ({
      type: 'bar', x: middle, y: counts, width: (fills.tick_ns / NS) * 0.94, marker: { color }, customdata: counts.map(count), hovertemplate: `%{customdata} ${name}<extra></extra>`,
    });
    return {
      traces: [bars(fills.demand, palette.demand, 'because somebody waited'), bars(fills.background, palette.background, 'ahead of need')],
      layout: { ...layoutOf(palette), barmode: 'stack', margin: { ...MARGIN, t: 6, b: 26 }, xaxis: timeAxis(report, palette, widthPx), yaxis: valueAxis(palette, ticks, { range: [0, ticks.high] }) },
      summary: `${count(fills.demand_total)} pages because somebody waited, ${count(fills.background_total)} ahead of need.`,
    };
  };
}

/** @returns {Draw} */
export function memoryChart() {
  return ({ report }, palette, widthPx) => {
    const { memory, brownout } = report;
    if (!memory.cells.length) return nothing(palette, 'No fault has a guest address');
    /** @type {(number|null)[][]} */
    const z = memory.rows.map(() => new Array(memory.ticks).fill(null));
    for (const [tick, row, faults] of memory.cells) z[row][tick] = faults;
    const most = Math.max(1, ...memory.cells.map((/** @type {number[]} */ cell) => cell[2]));
    const x = edges(report, { from_ns: brownout.from_ns, to_ns: brownout.to_ns, tick_ns: memory.tick_ns });
    return {
      traces: [{
        type: 'heatmap', x, y: Array.from({ length: memory.rows.length + 1 }, (_, row) => row - 0.5), z, zmin: -0.12 * most, zmax: most, colorscale: palette.heat, zsmooth: false, hoverongaps: false,
        text: z.map((row, index) => row.map((faults) => (faults ? `${memory.rows[index]}: ${count(faults)} ${faults === 1 ? 'fault' : 'faults'}` : ''))), hovertemplate: '%{text}<br>%{x:.3f} s<extra></extra>',
        colorbar: colourBar(palette),
      }],
      layout: { ...layoutOf(palette), hovermode: 'closest', margin: { ...MARGIN, t: 6, b: 26 }, xaxis: timeAxis(report, palette, widthPx), yaxis: valueAxis(palette, labels(memory.rows, 12), { range: [-0.5, memory.rows.length - 0.5], showgrid: false }) },
      summary: `Faults by guest address over time, ${binary(memory.bin_bytes)} a row.`,
    };
  };
}

/** @returns {Draw} */
export function stagesChart() {
  return ({ report }, palette) => {
    const families = Object.keys(report.stages ?? {});
    if (!families.length) return nothing(palette, 'No vCPU waited for a page');
    return {
      traces: Object.entries(GROUPS).map(([group, stage]) => {
        const parts = families.map((family) => report.stages[family].find((/** @type {any} */ one) => one.group === group));
        return {
          type: 'bar', orientation: 'h', y: families.map((_, row) => row), x: parts.map((part) => part?.share ?? 0), marker: { color: palette.stages[stage] },
          text: parts.map((part) => (part?.share > 0.08 ? share(part.share) : '')), textposition: 'inside', insidetextanchor: 'middle', textangle: 0, textfont: { color: palette.ink, size: 12 },
          customdata: parts.map((part) => (part ? `${part.title}${part.inferred ? ' (inferred)' : ''}: ${share(part.share)}` : '')), hovertemplate: '%{customdata}<extra></extra>',
        };
      }),
      layout: {
        ...layoutOf(palette), barmode: 'stack', hovermode: 'closest', dragmode: false, margin: { l: 52, r: 16, t: 4, b: 24 },
        xaxis: valueAxis(palette, { values: [0, 0.25, 0.5, 0.75, 1], labels: [0, 0.25, 0.5, 0.75, 1].map(share) }, { range: [0, 1] }),
        yaxis: valueAxis(palette, { values: families.map((_, row) => row), labels: families }, { range: [families.length - 0.5, -0.5], showgrid: false }),
      },
      summary: families.map((family) => `${family}: ${report.stages[family].map((/** @type {any} */ part) => `${part.title} ${share(part.share)}`).join(', ')}`).join('; '),
    };
  };
}

/** @returns {Draw} */
export function onceChart() {
  return ({ report }, palette) => {
    const { brownout } = report;
    if (!brownout.peak) return nothing(palette, 'No vCPU stood still');
    const length = Math.max(brownout.to_ns - brownout.from_ns, 1);
    const shares = brownout.time_at_ns.map((/** @type {number} */ ns) => ns / length);
    const ticks = scale(Math.max(...shares), share);
    return {
      traces: [{
        type: 'bar', x: shares.map((_, /** @type {number} */ at) => at), y: shares, marker: { color: palette.stalled },
        customdata: shares.map((/** @type {number} */ part, /** @type {number} */ at) => `${at} at once: ${share(part)}, ${duration(brownout.time_at_ns[at])}`), hovertemplate: '%{customdata}<extra></extra>',
      }],
      layout: {
        ...layoutOf(palette), hovermode: 'closest', dragmode: false, bargap: 0.15, margin: { l: 52, r: 12, t: 8, b: 44 },
        xaxis: { ...valueAxis(palette, whole(brownout.peak), { range: [-0.6, brownout.peak + 0.6], showgrid: false }), title: { text: `vCPUs standing still, of ${brownout.vcpus}`, font: { size: 12, color: palette.muted }, standoff: 6 } },
        yaxis: valueAxis(palette, ticks, { range: [0, ticks.high] }),
      },
      summary: shares.map((/** @type {number} */ part, /** @type {number} */ at) => (part > 0.005 ? `${at} at once ${share(part)}` : '')).filter(Boolean).join(', '),
    };
  };
}

/** @returns {Draw} */
export function accountChart() {
  return ({ report }, palette) => {
    const { vcpus, account } = report;
    if (!account.known) return nothing(palette, 'QEMU’s own account is not known here');
    const sets = /** @type {[string, string, string][]} */ ([['qemu_ns', 'QEMU says', palette.sides.b], ['same_ns', 'ours, counted the same way', palette.muted], ['stall_ns', 'ours in full', palette.sides.a]]);
    const ticks = scale(Math.max(1, ...vcpus.flatMap((/** @type {any} */ row) => [row.stall_ns, row.qemu_ns ?? 0])), duration);
    const names = labels(vcpus.map((/** @type {any} */ row) => String(row.vcpu)), 24);
    const shape = vcpus.length > MOST_BARS ? { type: 'scatter', mode: 'markers' } : { type: 'bar' };
    return {
      traces: sets.map(([key, name, color]) => ({
        ...shape, name, x: vcpus.map((_, /** @type {number} */ row) => row), y: vcpus.map((/** @type {any} */ row) => row[key]), marker: { color, size: 5 },
        customdata: vcpus.map((/** @type {any} */ row) => `vCPU ${row.vcpu}, ${name}: ${duration(row[key])}`), hovertemplate: '%{customdata}<extra></extra>',
      })),
      layout: {
        ...layoutOf(palette), barmode: 'group', hovermode: 'closest', dragmode: false, margin: { l: 64, r: 12, t: 24, b: 40 }, showlegend: true,
        legend: { orientation: 'h', x: 0, y: 1, yanchor: 'bottom', font: { size: 12, color: palette.text } },
        xaxis: { ...valueAxis(palette, names, { showgrid: false }), title: { text: 'vCPU', font: { size: 12, color: palette.muted }, standoff: 4 } },
        yaxis: valueAxis(palette, ticks, { range: [0, ticks.high] }),
      },
      summary: `QEMU says ${duration(account.qemu_ns)} for all vCPUs, ours is ${duration(account.stall_ns)}.`,
    };
  };
}
