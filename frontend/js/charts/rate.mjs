// @ts-check
/** Faults per second over time, one line per mode. */
import { compact, rate, scale } from '../format.mjs';
import { Calm, extent, layoutOf, phaseMarks, timeAxis, times, valueAxis, windowShape } from './axes.mjs';

/** @returns {import('./axes.mjs').Draw} */
export function rateChart() {
  const calm = new Calm();
  return (view, palette, widthPx) => {
    const base = layoutOf(palette);
    const marks = phaseMarks(view, palette, widthPx - base.margin.l - base.margin.r);
    const modes = Object.entries(view.series.modes);
    const x = times(view);
    const ticks = scale((extent(modes.map(([, series]) => series.rate)) ?? [0, 1])[1], compact);
    const [, high] = calm.fit(view.revision, 0, ticks.high);
    const traces = modes.map(([mode, series]) => ({
      type: 'scatter', mode: 'lines', name: mode, x, y: series.rate, customdata: series.rate.map(rate),
      hovertemplate: '%{customdata}', line: { color: palette.modes[mode], width: 2 }, connectgaps: false,
    }));
    return {
      traces,
      layout: {
        ...base, margin: { ...base.margin, t: base.margin.t + marks.roomPx },
        xaxis: timeAxis(view, palette),
        yaxis: valueAxis(palette, scale(high, compact), { range: [0, high * 1.03] }),
        shapes: [windowShape(view, palette), ...marks.shapes], annotations: marks.annotations,
      },
      legend: modes.map(([mode]) => mode),
      note: traces.length ? undefined : 'No fault ended in this time',
      summary: traces.length
        ? `Fault rate over time. Now: ${modes.map(([mode, series]) => `${mode} ${rate(series.rate.at(-1))}`).join(', ')}.`
        : 'Fault rate over time: no fault ended yet.',
    };
  };
}
