// @ts-check
/** Brownout: how many vCPUs stand still in faults at once, over time. */
import { compact, scale } from '../format.mjs';
import { brownoutSentence, ofVcpus } from '../sentences.mjs';
import { faded } from '../theme.mjs';
import { columnMargin, extent, layoutOf, phaseMarks, timeAxis, times, valueAxis, windowShape } from './axes.mjs';

/** @returns {import('./axes.mjs').Draw} */
export function brownoutChart() {
  return (view, palette, widthPx) => {
    const { mean, peak, vcpus } = view.series.stalled ?? { mean: [], peak: [], vcpus: [] };
    const most = extent([vcpus])?.[1] ?? 0;
    const x = times(view);
    const margin = columnMargin(view);
    const marks = phaseMarks(view, palette, widthPx - margin.l - margin.r);
    const line = (/** @type {string} */ name, /** @type {(number|null)[]} */ y, /** @type {object} */ more) => ({
      type: 'scatter', mode: 'lines', name, x, y, connectgaps: false, customdata: y.map((number, column) => `${name} ${ofVcpus(number, vcpus[column])}`), hovertemplate: '%{customdata}<extra></extra>', ...more,
    });
    return {
      traces: [
        line('on average', mean, { line: { color: palette.stalled, width: 2 }, fill: 'tozeroy', fillcolor: faded(palette.stalled, 0.22) }),
        line('at most', peak, { line: { color: faded(palette.stalled, 0.75), width: 1.25, dash: '2px,2px', shape: 'hvh' } }),
      ],
      layout: {
        ...layoutOf(palette), margin: { ...margin, t: margin.t + marks.roomPx },
        xaxis: timeAxis(view, palette, { nticks: 9 }),
        yaxis: valueAxis(palette, whole(Math.ceil(most)), { range: [0, Math.max(most, 1) * 1.04] }),
        shapes: [windowShape(view, palette), ...marks.shapes], annotations: marks.annotations,
      },
      note: mean.some((number) => number !== null) ? undefined : 'No time measured yet',
      summary: `vCPUs standing still at once, over time. ${brownoutSentence(view)}`,
    };
  };
}

/** vCPUs are counted in whole ones. @param {number} vcpus */
function whole(vcpus) {
  if (vcpus > 4) return scale(vcpus, compact, 4);
  const values = Array.from({ length: Math.max(vcpus, 1) + 1 }, (_, number) => number);
  return { values, labels: values.map(String) };
}
