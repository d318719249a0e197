// @ts-check
/** Pictures of two recordings: ratios, distributions, stages, vCPUs. A and B keep their colours everywhere. */
import { decades, duration, plain, scale, share, vcpuCount } from '../format.mjs';
import { layoutOf, valueAxis } from './axes.mjs';

/**
 * @typedef {{comparison: Record<string, any>, revision: string}} Pair  the answer of GET /api/v1/compare
 * @typedef {(view: any, palette: import('../theme.mjs').Palette, widthPx: number) => import('./axes.mjs').Figure} Draw
 */

/** Order of the figures in table and picture; what is there of them. @param {Record<string, any>} comparison @returns {[string, any][]} */
export function figuresOf(comparison) {
  const latency = comparison.latency_ns ?? {};
  const known = ['p50', 'p90', 'p99', 'mean', 'max'];
  const rows = [...known, ...Object.keys(latency).filter((name) => !known.includes(name))].filter((name) => latency[name]).map((name) => /** @type {[string, any]} */ ([name, latency[name]]));
  return comparison.rate ? [...rows, ['rate', comparison.rate]] : rows;
}

/** How many times as long: 0.39×, 2.2×. @param {number|null|undefined} value */
export function factor(value) {
  if (typeof value !== 'number' || !Number.isFinite(value)) return '–';
  return `${value >= 99.5 ? value.toFixed(0) : value >= 9.95 ? value.toFixed(1) : value.toFixed(2)}×`;
}

/** In place of a picture that would be empty. @param {import('../theme.mjs').Palette} palette @param {string} note @returns {import('./axes.mjs').Figure} */
function nothing(palette, note) {
  return { traces: [], layout: { ...layoutOf(palette), xaxis: { visible: false }, yaxis: { visible: false } }, note, summary: note };
}

/** Narrower than this, the picture stands beside a table that names its rows. */
const ALONE_PX = 480;

const RATIOS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/** B / A of every figure with its interval; 1 is the same. Rows stand as the table's beside it. @returns {Draw} */
export function ratioChart() {
  return ({ comparison }, palette, widthPx) => {
    const rows = figuresOf(comparison);
    if (!rows.length) return nothing(palette, 'Too few faults for any figure');
    const all = rows.flatMap(([, { ratio }]) => [ratio.value, ratio.low ?? ratio.value, ratio.high ?? ratio.value]).filter((value) => value > 0);
    const [least, most] = [Math.min(...all, 0.8), Math.max(...all, 1.25)];
    const low = RATIOS.findLast((tick) => tick <= least) ?? RATIOS[0];
    const high = RATIOS.find((tick) => tick >= most) ?? 1000;
    const ticks = RATIOS.filter((tick) => tick >= low && tick <= high);
    const shown = ticks.length > 6 ? ticks.filter((tick) => Number.isInteger(Math.round(Math.log10(tick) * 1e6) / 1e6)) : ticks;
    const same = comparison.smallest_effect ?? 0;
    const colour = (/** @type {any} */ figure) => (!figure.differs ? palette.muted : figure.ratio.value < 1 ? palette.sides.b : palette.sides.a);
    return {
      traces: [{
        type: 'scatter', mode: 'markers', x: rows.map(([, { ratio }]) => ratio.value), y: rows.map((_, row) => row),
        error_x: { type: 'data', symmetric: false, thickness: 2, width: 5, color: palette.muted, array: rows.map(([, { ratio }]) => (ratio.high ?? ratio.value) - ratio.value), arrayminus: rows.map(([, { ratio }]) => ratio.value - (ratio.low ?? ratio.value)) },
        marker: { size: 10, color: rows.map(([name, figure]) => (name === 'rate' ? palette.muted : colour(figure))) },
        customdata: rows.map(([name, { ratio }]) => `${name}: B / A ${factor(ratio.value)}${ratio.low === null ? '' : `, ${factor(ratio.low)} to ${factor(ratio.high)}`}`), hovertemplate: '%{customdata}<extra></extra>',
      }],
      layout: {
        ...layoutOf(palette), hovermode: 'closest', dragmode: false, margin: { l: widthPx < ALONE_PX ? 14 : 44, r: 14, t: 26, b: 26 },
        xaxis: valueAxis(palette, { values: shown, labels: shown.map((tick) => `${tick}×`) }, { type: 'log', range: [Math.log10(low), Math.log10(high)] }),
        yaxis: { range: [rows.length - 0.5, -0.5], tickmode: 'array', tickvals: rows.map((_, row) => row), ticktext: rows.map(([name]) => plain(name)), showticklabels: widthPx >= ALONE_PX, fixedrange: true, showgrid: false, zeroline: false, tickfont: { color: palette.text, size: 12 } },
        shapes: [
          { type: 'rect', layer: 'below', x0: 1 - same, x1: 1 / (1 - same), yref: 'paper', y0: 0, y1: 1, line: { width: 0 }, fillcolor: palette.window },
          { type: 'line', layer: 'below', x0: 1, x1: 1, yref: 'paper', y0: 0, y1: 1, line: { color: palette.muted, width: 1 } },
        ],
        annotations: [['left', '← B less'], ['right', 'B more →']].map(([side, text]) => ({ text, xref: 'paper', yref: 'paper', x: side === 'left' ? 0 : 1, y: 1, xanchor: side, yanchor: 'bottom', showarrow: false, font: { size: 11, color: palette.muted } })),
      },
      summary: `B divided by A: ${rows.map(([name, { ratio }]) => `${name} ${factor(ratio.value)}`).join(', ')}.`,
    };
  };
}

/** Both distributions over each other. @returns {Draw} */
export function ecdfChart() {
  return ({ comparison }, palette) => {
    const sides = /** @type {['a'|'b', any][]} */ ([['a', comparison.ecdf_a], ['b', comparison.ecdf_b]]);
    const all = sides.flatMap(([, ecdf]) => ecdf?.latency_ns ?? []).filter((ns) => ns > 0);
    if (!all.length) return nothing(palette, 'No fault in either recording');
    const ticks = decades(Math.min(...all), Math.max(...all));
    return {
      traces: sides.map(([side, ecdf]) => ({
        type: 'scatter', mode: 'lines', name: side.toUpperCase(), x: ecdf?.latency_ns ?? [], y: ecdf?.share ?? [], line: { color: palette.sides[side], width: 2.25, shape: 'hv', dash: side === 'a' ? 'solid' : '7px,3px' },
        customdata: (ecdf?.latency_ns ?? []).map((/** @type {number} */ ns, /** @type {number} */ index) => `${side.toUpperCase()}: ${share(ecdf.share[index])} within ${duration(ns)}`), hovertemplate: '%{customdata}<extra></extra>',
      })),
      layout: {
        ...layoutOf(palette), hovermode: 'closest', margin: { l: 50, r: 30, t: 8, b: 28 },
        xaxis: { ...valueAxis(palette, ticks, { type: 'log', range: [ticks.low, ticks.high] }), fixedrange: false },
        yaxis: valueAxis(palette, { values: [0, 0.25, 0.5, 0.75, 0.9, 1], labels: [0, 0.25, 0.5, 0.75, 0.9, 1].map(share) }, { range: [0, 1.02] }),
      },
      summary: 'Distributions of whole latency of both runs.',
    };
  };
}

/** Each vCPU as a dot: A across, B up; on the line they are equal. @param {() => 'p50'|'p99'} which @returns {Draw} */
export function vcpusChart(which) {
  return ({ comparison }, palette) => {
    const name = which();
    const pairs = (comparison.vcpus ?? []).filter((/** @type {any} */ row) => row.a?.[name] > 0 && row.b?.[name] > 0);
    const [xs, ys] = ['a', 'b'].map((side) => pairs.map((/** @type {any} */ row) => row[side][name]));
    const all = [...xs, ...ys];
    if (!all.length) return nothing(palette, 'No vCPU faulted in both recordings');
    const ticks = decades(Math.min(...all), Math.max(...all));
    const [low, high] = [Math.log10(Math.min(...all)) - 0.15, Math.log10(Math.max(...all)) + 0.15];
    const range = high - low > 0.8 ? [low, high] : [(low + high) / 2 - 0.4, (low + high) / 2 + 0.4];
    const fine = range[1] - range[0] < 1.3 ? steps(range) : ticks;
    const dense = pairs.length > 64;
    return {
      traces: [{
        type: 'scatter', mode: 'markers', x: xs, y: ys, marker: { size: dense ? 5 : 8, color: pairs.map((/** @type {any} */ row) => (row.b[name] < row.a[name] ? palette.sides.b : palette.sides.a)), opacity: dense ? 0.6 : 0.85 },
        customdata: pairs.map((/** @type {any} */ row) => `vCPU ${row.vcpu}<br>A ${duration(row.a[name])} · B ${duration(row.b[name])}`), hovertemplate: '%{customdata}<extra></extra>',
      }],
      layout: {
        ...layoutOf(palette), hovermode: 'closest', dragmode: false, margin: { l: 62, r: 12, t: 8, b: 42 },
        xaxis: { ...valueAxis(palette, fine, { type: 'log', range }), title: { text: `A ${name}`, font: { size: 12, color: palette.sides.a }, standoff: 6 } },
        yaxis: { ...valueAxis(palette, fine, { type: 'log', range }), title: { text: `B ${name}`, font: { size: 12, color: palette.sides.b }, standoff: 4 } },
        shapes: [{ type: 'line', layer: 'below', x0: 10 ** range[0], y0: 10 ** range[0], x1: 10 ** range[1], y1: 10 ** range[1], line: { color: palette.muted, width: 1, dash: '3px,3px' } }],
        annotations: [['B slower', 0.02, 0.98, 'left', 'top'], ['A slower', 0.98, 0.03, 'right', 'bottom']].map(([text, x, y, xanchor, yanchor]) => ({ text, x, y, xanchor, yanchor, xref: 'paper', yref: 'paper', showarrow: false, font: { size: 11, color: palette.muted } })),
      },
      summary: `${name} of ${vcpuCount(pairs.length)} in both runs; ${pairs.filter((/** @type {any} */ row) => row.b[name] < row.a[name]).length} are faster in B.`,
    };
  };
}

/** 1, 2, 5 of every decade in a short range. @param {number[]} range log10(ns) */
function steps([low, high]) {
  const values = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) for (const step of [1, 2, 5]) values.push(step * 10 ** power);
  const shown = values.filter((ns) => Math.log10(ns) >= low && Math.log10(ns) <= high);
  return { values: shown, labels: shown.map((ns) => duration(ns).replace(/\.0+(?=\D)/, '')) };
}

/** Mean of every stage around the median, A above B. @returns {Draw} */
export function stagesChart() {
  return ({ comparison }, palette) => {
    const stages = comparison.stages ?? [];
    if (!stages.length) return nothing(palette, 'Too few faults for any stage');
    const names = stages.map((/** @type {any} */ row) => row.stage);
    const ticks = scale(Math.max(...stages.flatMap((/** @type {any} */ row) => [row.a_ns, row.b_ns]), 1), duration, 4);
    return {
      traces: /** @type {const} */ (['a', 'b']).map((side) => ({
        type: 'bar', orientation: 'h', name: side.toUpperCase(), y: names.map((_, /** @type {number} */ row) => row), x: stages.map((/** @type {any} */ row) => row[`${side}_ns`]), marker: { color: palette.sides[side] },
        text: stages.map((/** @type {any} */ row) => (row[`${side}_ns`] > 0 ? duration(row[`${side}_ns`]) : '')), textposition: 'outside', textfont: { color: palette.text, size: 11 }, cliponaxis: false,
        hovertemplate: stages.map((/** @type {any} */ row) => `${side.toUpperCase()} · ${plain(row.stage)}: ${duration(row[`${side}_ns`])}<extra></extra>`),
      })),
      layout: {
        ...layoutOf(palette), barmode: 'group', bargap: 0.35, bargroupgap: 0.08, hovermode: 'closest', dragmode: false, margin: { l: 104, r: 64, t: 4, b: 26 },
        xaxis: valueAxis(palette, ticks, { range: [0, ticks.high] }),
        yaxis: { range: [names.length - 0.5, -0.5], tickmode: 'array', tickvals: names.map((_, /** @type {number} */ row) => row), ticktext: names.map(plain), fixedrange: true, showgrid: false, zeroline: false, tickfont: { color: palette.text, size: 12 }, ticklabelstandoff: 6 },
      },
      summary: `Mean of every stage around the median: ${stages.map((/** @type {any} */ row) => `${row.stage} A ${duration(row.a_ns)}, B ${duration(row.b_ns)}`).join('; ')}.`,
    };
  };
}
