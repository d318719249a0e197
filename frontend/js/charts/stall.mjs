// @ts-check
/** Time × vCPU: the share of every column of time that a vCPU stood still in faults. */
import { plain, share, vcpuCount } from '../format.mjs';
import { colourBar, columnMargin, layoutOf, phaseMarks, timeAxis, times } from './axes.mjs';
import { rowTicks, TILED_ROWS, vcpusOf } from './heat.mjs';

/** Ends that the scale may have: a VM that hardly stalls still shows which vCPU does. */
const ENDS = [0.02, 0.05, 0.1, 0.2, 0.5, 1];

/** How a share of time is coloured, up to where nearly all cells are. @param {(number|null)[][]} rows @param {import('./axes.mjs').Palette} palette */
export function stallColours(rows, palette) {
  const values = Float64Array.from(/** @type {number[]} */ (rows.flat().filter((stall) => stall !== null))).sort();
  const most = values.length ? values[Math.floor((values.length - 1) * 0.995)] : 1;
  const high = ENDS.find((end) => end >= most) ?? 1;
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => part * high);
  return { zmin: 0, zmax: high, colorscale: palette.heat, colorbar: colourBar(palette, { values: ticks, labels: ticks.map(share) }) };
}

/** @returns {import('./axes.mjs').Draw} */
export function stallChart() {
  return (view, palette, widthPx) => {
    const margin = columnMargin(view);
    const marks = phaseMarks(view, palette, widthPx - margin.l - margin.r, { over: true });
    const rows = view.series.stall;
    const vcpus = vcpusOf(view);
    const several = view.frame.vm === 'all' && vcpus.some((row) => row.vm !== vcpus[0].vm);
    const gap = rows.length <= TILED_ROWS ? 1 : 0;
    const found = rows.some((row) => row.some((stall) => (stall ?? 0) > 0));
    const names = vcpus.map((row) => plain(`${several ? `${row.vm_name} ` : ''}vCPU ${row.vcpu}`));
    return {
      traces: [{
        type: 'heatmap', x: times(view), y: rows.map((_, row) => row), z: rows, ...stallColours(rows, palette), zsmooth: false,
        xgap: gap && view.series.timesNs.length <= 150 ? 1 : 0, ygap: gap, hoverongaps: false,
        text: rows.map((row, index) => row.map((stall) => `${names[index] ?? index}: ${share(stall)}`)), hovertemplate: '%{text}<extra></extra>',
      }],
      layout: {
        ...layoutOf(palette), hovermode: 'closest', margin: { ...margin, t: margin.t + marks.roomPx }, shapes: marks.shapes, annotations: marks.annotations,
        xaxis: timeAxis(view, palette, { nticks: 9 }),
        yaxis: { ticklabeloverflow: 'allow', range: [-0.5, Math.max(rows.length, 1) - 0.5], showgrid: false, zeroline: false, fixedrange: rows.length <= TILED_ROWS, ticklabelstandoff: 6, ...rowTicks(vcpus, several), ticks: '' },
      },
      note: found ? undefined : 'No vCPU stood still in this time',
      summary: `Share of time in faults per vCPU over time, ${vcpuCount(rows.length)}.`,
    };
  };
}
