// @ts-check
/** Everything under the header, from one frame and its series: the same for a live VM, a replay and a summary. */
import { fillsChart } from './charts/bars.mjs';
import { brownoutChart } from './charts/brownout.mjs';
import { exitsChart } from './charts/exits.mjs';
import { fillsOverTimeChart } from './charts/fills.mjs';
import { gpaBin, gpaChart, gpaReadout } from './charts/gpa.mjs';
import { heatChart, readout } from './charts/heat.mjs';
import { latencyChart } from './charts/latency.mjs';
import { queueChart } from './charts/queue.mjs';
import { rateChart } from './charts/rate.mjs';
import { stagesChart } from './charts/stages.mjs';
import { stallChart } from './charts/stall.mjs';
import { byId, setText } from './dom.mjs';
import { showHeadline, showStageTable } from './headline.mjs';
import { Painter } from './painter.mjs';
import { ProgressStrip } from './progress.mjs';
import { brownoutSentence, fillsSentence, handlerSentence, timeSentence } from './sentences.mjs';
import { SlowestTable } from './slowest.mjs';
import { ThreadTable } from './threads.mjs';
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
    /** The cards that this VM has had. */
    this.had = /** @type {Set<string>} */ (new Set());
    this.vm = '';
    const said = (/** @type {string} */ id, /** @type {typeof readout} */ words) => (/** @type {any} */ point) => setText(byId(id), point && this.view ? words(this.view, point) : '');
    this.painter = new Painter([
      { name: 'rate', plot: byId('plot-rate'), draw: rateChart(), input: byTick },
      { name: 'latency', plot: byId('plot-latency'), draw: latencyChart(), input: byTick },
      { name: 'heat', plot: byId('plot-heat'), draw: heatChart(), input: byTick, onHover: said('heat-readout', readout) },
      { name: 'brownout', plot: byId('plot-brownout'), draw: brownoutChart(), input: byTick },
      { name: 'flow', plot: byId('plot-flow'), draw: fillsOverTimeChart(), input: byTick },
      { name: 'gpa', plot: byId('plot-gpa'), draw: gpaChart(), input: byTick, onHover: said('gpa-readout', gpaReadout) },
      { name: 'stall', plot: byId('plot-stall'), draw: stallChart(), input: byTick },
      { name: 'queue', plot: byId('plot-queue'), draw: queueChart(), input: byTick },
      { name: 'stages', plot: byId('plot-stages'), draw: stagesChart(() => asShare.checked), input: byFrame, everyMs: BARS_MS },
      { name: 'exits', plot: byId('plot-exits'), draw: exitsChart(), input: byFrame, everyMs: BARS_MS },
      { name: 'fills', plot: byId('plot-fills'), draw: fillsChart(), input: byFrame, everyMs: BARS_MS },
    ]);
    asShare.addEventListener('change', () => this.painter.refresh());
    this.progress = new ProgressStrip();
    this.threads = new ThreadTable();
    this.vcpus = new VcpuTable();
    this.slowest = new SlowestTable();
  }

  /** @param {import('./charts/axes.mjs').View} view @param {Words} words */
  show(view, words) {
    this.view = view;
    const { frame, series } = view;
    showHeadline(frame);
    showStageTable(frame);
    this.progress.show(frame, view.known);
    this.threads.show(frame);
    this.#cards(view);
    setText(byId('brownout-sentence'), brownoutSentence(view));
    setText(byId('flow-sentence'), fillsSentence(view));
    setText(byId('handler-sentence'), handlerSentence(frame));
    setText(byId('stages-sentence'), timeSentence(frame));
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

  /** A card about what this VM does not have is not there: no empty boxes. @param {import('./charts/axes.mjs').View} view */
  #cards({ frame, series, known, revision }) {
    const vm = revision.split('|')[0];
    if (vm !== this.vm) [this.vm, this.had] = [vm, new Set()];
    const has = { brownout: series.stalled, flow: series.fills, gpa: series.gpa.some((ticks) => ticks.length), handler: frame.queue?.total || frame.threads?.some((/** @type {any} */ thread) => thread.served) || series.queue.total.some((total) => total) };
    for (const [name, there] of Object.entries(has)) {
      if (there) this.had.add(name); // once there, it stays: nothing jumps when a VM falls silent
      byId(`card-${name}`).hidden = !this.had.has(name);
    }
    byId('flow-left').hidden = !known?.of.size;
    setText(byId('gpa-bin'), gpaBin(/** @type {any} */ (this.view)));
  }
}
