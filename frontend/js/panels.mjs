// @ts-check
/** Everything under the header, from one frame and its series: the same for a live VM, a replay and a summary. */
import { fillsChart } from './charts/bars.mjs';
import { exitsChart } from './charts/exits.mjs';
import { heatChart, readout } from './charts/heat.mjs';
import { latencyChart } from './charts/latency.mjs';
import { queueChart } from './charts/queue.mjs';
import { rateChart } from './charts/rate.mjs';
import { stagesChart } from './charts/stages.mjs';
import { stallChart } from './charts/stall.mjs';
import { byId, setText } from './dom.mjs';
import { showHeadline, showStageTable } from './headline.mjs';
import { Painter } from './painter.mjs';
import { SlowestTable } from './slowest.mjs';
import { VcpuTable } from './vcpus.mjs';

/** Bars may follow every frame; more often than this they only flicker. */
const BARS_MS = 450;

/** How the page speaks of the time that it shows: `last 10 s`, `whole recording`. @typedef {{ofWindow: string, ofSpan: string, ofFaults: string, column: string}} Words */

export class Panels {
  constructor() {
    const asShare = /** @type {HTMLInputElement} */ (byId('stages-share'));
    const byTick = (/** @type {import('./charts/axes.mjs').View} */ view) => view.series;
    const byFrame = (/** @type {import('./charts/axes.mjs').View} */ view) => view.frame;
    /** @type {import('./charts/axes.mjs').View|null} */
    this.view = null;
    const onHover = (/** @type {any} */ point) => setText(byId('heat-readout'), point && this.view ? readout(this.view, point) : '');
    this.painter = new Painter([
      { name: 'rate', plot: byId('plot-rate'), draw: rateChart(), input: byTick },
      { name: 'latency', plot: byId('plot-latency'), draw: latencyChart(), input: byTick },
      { name: 'heat', plot: byId('plot-heat'), draw: heatChart(), input: byTick, onHover },
      { name: 'stall', plot: byId('plot-stall'), draw: stallChart(), input: byTick },
      { name: 'queue', plot: byId('plot-queue'), draw: queueChart(), input: byTick },
      { name: 'stages', plot: byId('plot-stages'), draw: stagesChart(() => asShare.checked), input: byFrame, everyMs: BARS_MS },
      { name: 'exits', plot: byId('plot-exits'), draw: exitsChart(), input: byFrame, everyMs: BARS_MS },
      { name: 'fills', plot: byId('plot-fills'), draw: fillsChart(), input: byFrame, everyMs: BARS_MS },
    ]);
    asShare.addEventListener('change', () => this.painter.refresh());
    this.vcpus = new VcpuTable();
    this.slowest = new SlowestTable();
  }

  /** @param {import('./charts/axes.mjs').View} view @param {Words} words */
  show(view, words) {
    this.view = view;
    const { frame, series } = view;
    showHeadline(frame);
    showStageTable(frame);
    this.vcpus.show(frame);
    this.slowest.show(frame, view.clockMs);
    for (const element of document.querySelectorAll('.of-window')) setText(element, words.ofWindow);
    for (const element of document.querySelectorAll('.of-span')) setText(element, words.ofSpan);
    for (const element of document.querySelectorAll('.of-faults')) setText(element, words.ofFaults);
    setText(byId('heat-column'), words.column);
    const rows = series.heat.length > 128 ? 'many' : series.heat.length > 32 ? 'some' : 'few';
    for (const id of ['card-heat', 'card-stall']) byId(id).dataset.rows = rows;
    this.painter.show(view);
  }
}
