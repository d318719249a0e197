// @ts-check
/** The one module that knows every part: stream → state → what is shown. */
import { exitsChart, fillsChart } from './charts/bars.mjs';
import { heatChart, readout } from './charts/heat.mjs';
import { latencyChart } from './charts/latency.mjs';
import { queueChart } from './charts/queue.mjs';
import { rateChart } from './charts/rate.mjs';
import { stagesChart } from './charts/stages.mjs';
import { ALL, hashOf, showPicker, startControls, WINDOWS_NS } from './controls.mjs';
import { byId, latch, setText } from './dom.mjs';
import { span } from './format.mjs';
import { showHeadline, showStageTable } from './headline.mjs';
import { showLedger, startLedger } from './ledger.mjs';
import { showEmpty, showStatus } from './notice.mjs';
import { Painter } from './painter.mjs';
import { seriesOf, spanOf } from './series.mjs';
import { SlowestTable } from './slowest.mjs';
import { INITIAL, reduce } from './state.mjs';
import { statusOf } from './status.mjs';
import { Stream } from './stream.mjs';
import { startTheme } from './theme.mjs';
import { VcpuTable } from './vcpus.mjs';
import { VmTable } from './vms.mjs';

/** Bars may follow every frame; more often than this they only flicker. */
const BARS_MS = 450;
/** The badge counts up by itself when nothing comes. */
const CLOCK_MS = 250;

startTheme(() => painter.refresh(true));
startLedger();

let state = INITIAL;
/** @type {import('./state.mjs').State|null} */
let frozen = null;
let frozenMs = 0;
let trouble = '';
let choice = startControls({
  onChoice: (chosen) => {
    choice = chosen;
    stream.subscribe(subscription());
    show();
  },
  onPause: (paused) => {
    frozen = paused ? state : null;
    frozenMs = performance.now();
    show();
  },
  onTheme: () => painter.refresh(true),
});

const asShare = /** @type {HTMLInputElement} */ (byId('stages-share'));
asShare.addEventListener('change', () => painter.refresh());

const byTick = (/** @type {import('./charts/axes.mjs').View} */ view) => view.series;
const byFrame = (/** @type {import('./charts/axes.mjs').View} */ view) => view.frame;
const painter = new Painter([
  { name: 'rate', plot: byId('plot-rate'), draw: rateChart(), input: byTick },
  { name: 'latency', plot: byId('plot-latency'), draw: latencyChart(), input: byTick },
  { name: 'heat', plot: byId('plot-heat'), draw: heatChart(), input: byTick, onHover: (point) => setText(byId('heat-readout'), point ? readout(viewOf(frozen ?? state), point) : '') },
  { name: 'queue', plot: byId('plot-queue'), draw: queueChart(), input: byTick },
  { name: 'stages', plot: byId('plot-stages'), draw: stagesChart(() => asShare.checked), input: byFrame, everyMs: BARS_MS },
  { name: 'exits', plot: byId('plot-exits'), draw: exitsChart(), input: byFrame, everyMs: BARS_MS },
  { name: 'fills', plot: byId('plot-fills'), draw: fillsChart(), input: byFrame, everyMs: BARS_MS },
]);
const vcpus = new VcpuTable();
const slowest = new SlowestTable();
const vms = new VmTable((vm) => { location.hash = hashOf({ ...choice, vm }); });

/** @returns {import('./stream.mjs').Subscription} */
function subscription() {
  return { vm: choice.vm, window: choice.window };
}

/** The last series computed, kept because most frames bring no new tick. */
let cache = { ticks: /** @type {object} */ ({}), spanNs: 0, series: /** @type {any} */ (null) };

/** @param {import('./state.mjs').State} shown @returns {import('./charts/axes.mjs').View} */
function viewOf(shown) {
  const windowNs = WINDOWS_NS[choice.window];
  const spanNs = spanOf(windowNs, shown.ticks);
  if (cache.ticks !== shown.ticks || cache.spanNs !== spanNs) {
    cache = { ticks: shown.ticks, spanNs, series: seriesOf(shown.ticks, spanNs) };
  }
  return { frame: /** @type {any} */ (shown.frame), series: cache.series, windowNs, spanNs, clockMs: shown.clockMs, revision: `${shown.vm}|${choice.window}` };
}

/** Everything but the charts, at most once per animation frame; the charts follow in frames of their own. */
const show = latch(() => {
  const started = performance.now();
  const shown = frozen ?? state;
  const status = statusOf(state, started, frozen ? frozenMs : null);
  const { frame } = shown;
  const all = shown.vm === ALL;
  showStatus(status, shown, all, trouble);
  showLedger(state.frame);
  showPicker(frame?.vms ?? [], choice.vm, shown.vm);
  const hasVm = frame?.vm !== null && frame?.vm !== undefined;
  showEmpty(status.kind, hasVm && frame.vms.length > 0, status.sentence);
  document.body.classList.toggle('all-vms', all);
  if (frame && hasVm) showVm(shown);
  if (frame && all) vms.show(frame.vms);
  performance.measure('show', { start: started });
  performance.clearMeasures('show');
});

/** @param {import('./state.mjs').State} shown */
function showVm(shown) {
  const frame = /** @type {Record<string, any>} */ (shown.frame);
  const view = viewOf(shown);
  showHeadline(frame);
  showStageTable(frame);
  vcpus.show(frame);
  slowest.show(frame, shown.clockMs);
  document.querySelectorAll('.of-window').forEach((element) => setText(element, span(view.windowNs)));
  document.querySelectorAll('.of-span').forEach((element) => setText(element, span(view.spanNs)));
  const columnS = view.series.columnNs / 1e9;
  setText(byId('heat-column'), columnS === 1 ? 'p99 of every second' : `the worst second of every ${span(view.series.columnNs)}`);
  byId('card-heat').dataset.rows = view.series.heat.length > 128 ? 'many' : view.series.heat.length > 32 ? 'some' : 'few';
  painter.show(view);
}

/** Plotly comes after the first numbers; then the charts are drawn. */
const script = document.querySelector('script[src$="plotly.min.js"]');
script?.addEventListener('load', () => painter.refresh());
script?.addEventListener('error', () => { trouble = 'The charts are missing: plotly.min.js did not load.'; });

const stream = new Stream(subscription(), (event) => {
  state = reduce(state, event, performance.now());
  show();
});
setInterval(show, CLOCK_MS);

