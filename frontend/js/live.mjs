// @ts-check
/** What is happening now, or a replay of what was: stream → state → what is shown. */
import { AlarmStrip } from './alarms.mjs';
import { ALL, hashOf, showPicker, startControls, WINDOWS_NS } from './controls.mjs';
import { byId, latch } from './dom.mjs';
import { span } from './format.mjs';
import { gapOf, shownVm } from './gaps.mjs';
import { showLedger } from './ledger.mjs';
import { showEmpty, showStatus } from './notice.mjs';
import { Panels } from './panels.mjs';
import { Recorder } from './recorder.mjs';
import { Replay } from './replay.mjs';
import { Samples } from './samples.mjs';
import { seriesOf, spanOf } from './series.mjs';
import { INITIAL, reduce } from './state.mjs';
import { statusOf } from './status.mjs';
import { Stream } from './stream.mjs';
import { startTheme } from './theme.mjs';
import { VmTable } from './vms.mjs';
import { startZoneButton, zoneName } from './zone.mjs';

/** The badge counts up by itself when nothing comes. */
const CLOCK_MS = 250;

export function startLive() {
  const panels = new Panels();
  const { painter } = panels;
  startTheme(() => painter.refresh(true));

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
  const alarms = new AlarmStrip();
  const samples = new Samples();
  const vms = new VmTable((vm) => { location.hash = hashOf({ ...choice, vm }); });
  const recorder = new Recorder({ reachable: () => state.connection === 'open' });
  const replay = new Replay((playing) => {
    byId('pause').classList.toggle('away', Boolean(playing));
    if (playing && frozen) byId('pause').click(); // the replay has a pause of its own
    painter.refresh(); // its clock is another
    show();
  });

  startZoneButton(() => {
    painter.refresh();
    show();
  });

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
    const clockMs = replay.clockMs ?? shown.clockMs;
    const zone = zoneName(cache.series.endNs / 1e6 + clockMs);
    return { frame: /** @type {any} */ (shown.frame), series: cache.series, windowNs, spanNs, clockMs, known: samples, revision: `${shown.vm}|${choice.window}|${zone}` };
  }

  /** Everything but the charts, at most once per animation frame; the charts follow in frames of their own. */
  const show = latch(() => {
    const started = performance.now();
    const shown = frozen ?? state;
    const { playing } = replay;
    const said = statusOf(state, started, frozen ? frozenMs : null, playing !== null);
    const status = playing && said.kind === 'replay' ? { ...said, sentence: replay.sentence } : said;
    const { frame } = shown;
    const known = state.frame !== null && !statusOf(state, started, null, playing !== null).dim;
    const all = shown.vm === ALL;
    showStatus(status, shown, all, trouble || replay.trouble);
    showLedger(state.frame, known);
    alarms.show(state.frame, replay.clockMs ?? state.clockMs, known);
    showPicker(frame?.vms ?? [], choice.vm, shown.vm);
    recorder.offer(frame?.vms ?? [], choice.vm);
    const hasVm = frame?.vm !== null && frame?.vm !== undefined;
    const gap = frame && !all ? gapOf(shownVm(frame)) : null;
    if (gap?.counted === false && !status.dim) showEmpty('uncounted', false, gap.why);
    else showEmpty(status.kind, hasVm && frame.vms.length > 0, status.sentence);
    document.body.classList.toggle('all-vms', all);
    if (frame && hasVm) showVm(viewOf(shown));
    if (frame && all) vms.show(frame.vms, frame);
    performance.measure('show', { start: started });
    performance.clearMeasures('show');
  });

  /** What the window covers, for headings: in whole seconds, so that nothing beside them moves. @param {import('./charts/axes.mjs').View} view */
  function headed({ frame, windowNs }) {
    const { window_filled_ns: filledNs } = frame;
    return span(Math.abs(filledNs - windowNs) < 0.02 * windowNs ? windowNs : filledNs);
  }

  /** @param {import('./charts/axes.mjs').View} view */
  function showVm(view) {
    const { columnNs } = view.series;
    const column = columnNs === 1e9 ? 'p99 of every second, or age of the open fault' : `the worst second of every ${span(columnNs)}`;
    panels.show(view, { ofWindow: `last ${headed(view)}`, ofSpan: `last ${span(view.spanNs)}`, ofFaults: 'since the VM was first seen', column });
  }

  /** Plotly comes after the first numbers; then the charts are drawn. */
  const script = document.querySelector('script[src$="plotly.min.js"]');
  script?.addEventListener('load', () => painter.refresh());
  script?.addEventListener('error', () => { trouble = 'The charts are missing: plotly.min.js did not load.'; });

  const stream = new Stream(subscription(), (event) => {
    const before = state.connection;
    state = reduce(state, event, performance.now());
    if (state.connection === 'open' && before !== 'open') recorder.refresh();
    replay.hear(state.frame?.source?.kind);
    if (event.type === 'frame') samples.hear(event.migrations ?? []);
    show();
  });
  setInterval(show, CLOCK_MS);
}
