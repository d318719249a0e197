// @ts-check
/** Whole latency over time: one small panel per mode on one logarithmic scale; p50 to p99 as a band, max above it. */
import { decades, duration } from '../format.mjs';
import { faded } from '../theme.mjs';
import { Calm, extent, layoutOf, phaseMarks, timeAxis, times, valueAxis, windowShape } from './axes.mjs';

const LINES = [
  { name: 'max', width: 1.25, dash: '1px,2px', alpha: 0.9 },
  { name: 'p99', width: 2.25, dash: 'solid', alpha: 0.75 },
  { name: 'p90', width: 1.25, dash: '3px,2px', alpha: 0.9 },
  { name: 'p50', width: 2.25, dash: 'solid', alpha: 1 },
];
const GAP = 0.03;

/** @returns {import('./axes.mjs').Draw} */
export function latencyChart() {
  const calm = new Calm();
  return (view, palette, widthPx) => {
    const modes = view.series.modes;
    // uffd and exit always have their place, so that the two can be compared and nothing moves when one falls silent.
    const panels = [...new Set(['uffd', 'exit', ...Object.keys(modes)])];
    const found = extent(Object.values(modes).flatMap((series) => [series.p50, series.max]));
    const fitted = decades(...(found ?? [1e4, 1e7]));
    const [low, high] = calm.fit(view.revision, fitted.low, fitted.high);
    const ticks = decades(10 ** low, 10 ** high);
    const layout = layoutOf(palette);
    layout.shapes = [];
    layout.annotations = [];
    layout.margin = { ...layout.margin, t: 24 };
    layout.yaxis = valueAxis(palette, ticks, { type: 'log', range: [low, high] });
    const traces = panels.flatMap((mode, index) => {
      const suffix = index ? String(index + 1) : '';
      const domain = [index / panels.length + (index ? GAP / 2 : 0), (index + 1) / panels.length - (index + 1 < panels.length ? GAP / 2 : 0)];
      layout[`xaxis${suffix}`] = timeAxis(view, palette, { domain, nticks: panels.length > 2 ? 4 : 5, matches: index ? 'x' : undefined });
      if (index) layout[`yaxis${suffix}`] = { ...layout.yaxis, matches: 'y', showticklabels: false, anchor: `x${suffix}` };
      const marks = phaseMarks(view, palette, (widthPx - layout.margin.l - layout.margin.r) / panels.length, { xref: `x${suffix}`, inside: true });
      layout.shapes.push(windowShape(view, palette, `x${suffix}`), ...marks.shapes);
      layout.annotations.push(...marks.annotations, {
        text: `<b>${mode}</b>${modes[mode] ? '' : '  none ended'}`, showarrow: false, xref: `x${suffix} domain`, yref: 'paper', x: 0, y: 1, xanchor: 'left', yanchor: 'bottom',
        font: { size: 12, color: modes[mode] ? palette.modes[mode] : palette.muted },
      });
      return modes[mode] ? lines(view, modes[mode], palette.modes[mode], suffix) : [{ type: 'scatter', x: [], y: [], xaxis: `x${suffix}`, yaxis: `y${suffix}` }];
    });
    return { traces, layout, summary: summary(view, panels) };
  };
}

/** @param {import('./axes.mjs').View} view @param {import('../series.mjs').ModeSeries} series @param {string} colour @param {string} suffix @returns {object[]} */
function lines(view, series, colour, suffix) {
  const x = times(view);
  /** @type {object[]} */
  const drawn = LINES.map(({ name, width, dash, alpha }) => {
    const y = /** @type {any} */ (series)[name];
    return {
      type: 'scatter', mode: 'lines', name, x, y, xaxis: `x${suffix}`, yaxis: `y${suffix}`,
      customdata: y.map(duration), hovertemplate: '%{customdata}', connectgaps: false,
      line: { color: faded(colour, alpha), width, dash },
    };
  });
  drawn.unshift({
    type: 'scatter', mode: 'none', hoverinfo: 'skip', xaxis: `x${suffix}`, yaxis: `y${suffix}`, ...band(x, series.p50, series.p99),
    fill: 'toself', fillcolor: faded(colour, 0.16),
  });
  const single = lonely(series.p99);
  if (single.length) {
    drawn.push({
      type: 'scatter', mode: 'markers', hoverinfo: 'skip', xaxis: `x${suffix}`, yaxis: `y${suffix}`,
      x: single.flatMap((index) => [x[index], x[index]]), y: single.flatMap((index) => [series.p50[index], series.p99[index]]),
      marker: { size: 4, color: colour },
    });
  }
  return drawn;
}

/**
 * One closed outline between two lines for every stretch without a gap, with a null between stretches.
 * @param {string[]} x @param {(number|null)[]} low @param {(number|null)[]} high
 */
function band(x, low, high) {
  const outline = { x: /** @type {(string|null)[]} */ ([]), y: /** @type {(number|null)[]} */ ([]) };
  for (let start = 0; start < x.length; start += 1) {
    let end = start;
    while (end < x.length && low[end] !== null && high[end] !== null) end += 1;
    if (end - start > 1) {
      outline.x.push(...x.slice(start, end), ...x.slice(start, end).reverse(), null);
      outline.y.push(...high.slice(start, end), ...low.slice(start, end).reverse(), null);
    }
    start = end;
  }
  return outline;
}

/** Columns without a neighbour: no line shows them. @param {(number|null)[]} list */
function lonely(list) {
  const indices = [];
  for (let index = 0; index < list.length; index += 1) {
    if (list[index] !== null && (list[index - 1] ?? null) === null && (list[index + 1] ?? null) === null) indices.push(index);
  }
  return indices;
}

/** @param {import('./axes.mjs').View} view @param {string[]} panels */
function summary(view, panels) {
  const parts = panels.filter((mode) => view.frame.modes?.[mode]?.count).map((mode) => {
    const { p50, p99, max } = view.frame.modes[mode];
    return `${mode}: median ${duration(p50)}, p99 ${duration(p99)}, longest ${duration(max)}`;
  });
  return `Latency over time per mode. Over the window: ${parts.join('; ') || 'no faults'}.`;
}
