// @ts-check
/** One recording at rest: the whole of it or a part, in the charts of the live page. */
import { address, get, lineOf, post } from './api.mjs';
import { showConditions } from './conditions.mjs';
import { startThemeButton } from './controls.mjs';
import { byId, make, setAttribute, setText } from './dom.mjs';
import { clock, compact, count, duration, moment, place, span } from './format.mjs';
import { showLedger } from './ledger.mjs';
import { Panels } from './panels.mjs';
import { Range } from './range.mjs';
import { downloads } from './recorder.mjs';
import { Samples } from './samples.mjs';
import { seriesOfColumns } from './series.mjs';
import { startTheme } from './theme.mjs';
import { drawStrip, overviewOf } from './timeline.mjs';
import { VmTable } from './vms.mjs';
import { startZoneButton, zoneName } from './zone.mjs';

/** What of the recording is on show; in the address, so that it can be shared. @typedef {{vm: string, from: number, to: number}} Part  from, to: seconds from its begin, `to` 0 = its end */

/** @param {string} hash @returns {Part} */
export function partOf(hash) {
  const values = new URLSearchParams(hash.replace(/^#/, ''));
  const seconds = (/** @type {string} */ name) => Math.max(0, Number(values.get(name)) || 0);
  const [from, to] = [seconds('from'), seconds('to')];
  return { vm: values.get('vm') ?? '', from: to && to <= from ? 0 : from, to: to && to <= from ? 0 : to };
}

/** @param {Part} part */
export function hashOfPart({ vm, from, to }) {
  const values = new URLSearchParams();
  if (vm) values.set('vm', vm);
  if (from) values.set('from', String(Math.round(from * 1000) / 1000));
  if (to) values.set('to', String(Math.round(to * 1000) / 1000));
  return `#${values}`;
}

/** @param {string} id of the recording */
export function startSummary(id) {
  document.body.classList.add('summary');
  const path = `recordings/${encodeURIComponent(id)}`;
  const panels = new Panels();
  startTheme(() => panels.painter.refresh(true));
  startThemeButton(() => panels.painter.refresh(true));
  startZoneButton(() => {
    if (!shown) return;
    showConditions(/** @type {any} */ (meta));
    show(shown);
  });
  setAttribute(byId('badge'), 'data-kind', 'summary');
  setText(byId('badge-label'), 'SUMMARY');
  byId('nav-live').removeAttribute('aria-current');

  let part = partOf(location.hash);
  /** @type {Record<string, any>|null} */
  let meta = null;
  let asked = 0;

  const change = (/** @type {Partial<Part>} */ changed) => {
    part = { ...part, ...changed };
    history.replaceState(null, '', location.search + hashOfPart(part));
    load();
  };
  const range = new Range((from, to) => {
    if (!meta) return;
    const seconds = (meta.ended_ns - meta.started_ns) / 1e9;
    change({ from: from * seconds, to: to >= 1 ? 0 : to * seconds });
  });
  const vms = new VmTable((vm) => change({ vm }));
  const picker = /** @type {HTMLSelectElement} */ (byId('vm'));
  picker.addEventListener('change', () => change({ vm: picker.value }));
  byId('whole').addEventListener('click', () => change({ from: 0, to: 0 }));
  addEventListener('hashchange', () => { part = partOf(location.hash); load(); });
  byId('play').addEventListener('click', async () => {
    try {
      await post('replay', { id, ...(part.from && meta ? { at_ns: Math.round(meta.started_ns + part.from * 1e9) } : {}) });
      location.assign('./');
    } catch (error) {
      setText(byId('notice-error'), lineOf(error));
    }
  });
  const script = document.querySelector('script[src$="plotly.min.js"]');
  script?.addEventListener('load', () => panels.painter.refresh());
  script?.addEventListener('error', () => setText(byId('notice-error'), 'The charts are missing: plotly.min.js did not load.'));

  open();

  async function open() {
    setText(byId('notice-text'), 'Reading the recording …');
    try {
      meta = await get(path);
    } catch (error) {
      fail(error);
      return;
    }
    const lengthNs = meta?.ended_ns - meta?.started_ns;
    document.title = `${meta?.name || id} · exitscope`;
    range.setLength(lengthNs);
    showConditions(/** @type {any} */ (meta));
    showVmPicker();
    await load();
    try {
      const whole = part.from || part.to || part.vm ? await get(`${path}/summary`) : shown;
      if (whole) drawStrip(/** @type {HTMLElement} */ (byId('range-timeline').firstElementChild), overviewOf(whole));
    } catch { /* the strip chooses without marks, too */ }
  }

  /** @type {Record<string, any>|null} */
  let shown = null;
  const samples = new Samples();

  async function load() {
    if (!meta) return;
    asked += 1;
    const mine = asked;
    const seconds = (meta.ended_ns - meta.started_ns) / 1e9;
    const [from, to] = [Math.min(part.from, seconds), part.to ? Math.min(part.to, seconds) : seconds];
    range.set(seconds ? from / seconds : 0, seconds ? to / seconds : 1);
    const query = {
      vm: part.vm, from_ns: part.from ? Math.round(meta.started_ns + from * 1e9) : '', to_ns: part.to ? Math.round(meta.started_ns + to * 1e9) : '',
    };
    byId('download').replaceChildren(...downloads(meta.name || id, (format) => address(`${path}/faults`, { format, ...query }), !Object.values(query).some(Boolean)));
    document.body.classList.add('busy');
    try {
      const summary = await get(`${path}/summary`, query);
      if (mine === asked) show(summary);
    } catch (error) {
      if (mine === asked) fail(error);
    }
    if (mine === asked) document.body.classList.remove('busy');
  }

  /** @param {Record<string, any>} summary */
  function show(summary) {
    shown = summary;
    const source = /** @type {Record<string, any>} */ (meta);
    const migrations = migrationsOf(source, id, part.vm);
    samples.hear(migrations, true);
    const spanNs = summary.to_ns - summary.from_ns;
    const whole = !part.from && !part.to;
    const several = !part.vm && (summary.vms ?? []).length > 1;
    const clockMs = source.started_wall_ms - source.started_ns / 1e6;
    const frame = {
      ...summary, migrations, vcpus: (summary.vcpus ?? []).map((/** @type {any} */ row) => ({ ...row, open_since_ns: 0 })), at_rest: true,
      vm: several ? 'all' : part.vm || summary.vms?.[0]?.id, time_ns: summary.to_ns,
      window_ns: spanNs, window_filled_ns: spanNs, loss: summary.loss ?? source.loss ?? {}, missing_hooks: missing(source),
    };
    const long = spanNs >= 10e9 ? span(spanNs) : duration(spanNs);
    const words = whole ? 'whole recording' : `selected ${long}`;
    setText(byId('part-name'), source.name || id);
    setText(byId('part'), whole ? `whole, ${place(spanNs, spanNs)}` : `${moments(summary, clockMs)}, ${long}`);
    byId('whole').classList.toggle('away', whole);
    setText(byId('notice-error'), '');
    setText(byId('notice-text'), `${moment(source.started_wall_ms)}${source.host ? ` · on ${source.host}` : ''}${source.kernel ? `, Linux ${source.kernel}` : ''}`);
    showLedger(frame);
    byId('empty').hidden = true;
    byId('charts').hidden = false;
    document.body.classList.toggle('all-vms', several);
    if (several) vms.show(withRates(summary.vms, spanNs), frame);
    setText(byId('records'), compact(source.records));
    byId('records').title = count(source.records);
    setText(byId('records-of'), summary.source === 'kernel totals' ? 'totals: kernel’s' : 'totals: records’');
    byId('records-of').title = summary.source === 'kernel totals' ? 'Counts and percentiles on this page come from the kernel’s own totals: exact.' : 'Counts and percentiles on this page were computed from the records of this part.';
    const column = `p99, or age of the open fault, of every ${summary.tick_ns === 1e9 ? 'second' : summary.tick_ns > 1e9 ? span(summary.tick_ns) : duration(summary.tick_ns)}`;
    const series = seriesOfColumns(columnsOf(summary), summary.tick_ns);
    panels.show({ frame, series: { ...series, endNs: summary.to_ns }, windowNs: 0, spanNs, clockMs, known: samples, revision: `${part.vm}|${part.from}|${part.to}|${zoneName(source.started_wall_ms)}` }, { ofWindow: words, ofSpan: words, ofFaults: whole ? 'of the recording' : 'of this part', column });
  }

  /** @param {unknown} error */
  function fail(error) {
    setText(byId('notice-text'), '');
    setText(byId('notice-error'), lineOf(error));
    if (shown) return;
    byId('empty').hidden = false;
    setText(byId('empty-title'), 'This recording cannot be shown');
    setText(byId('empty-reason'), lineOf(error));
    const back = make('a', 'link', 'All recordings');
    back.setAttribute('href', 'recordings.html');
    byId('empty-text').replaceChildren(back);
  }

  function showVmPicker() {
    const listed = meta?.vms ?? [];
    picker.replaceChildren(new Option(`All VMs (${listed.length})`, ''), ...listed.map((/** @type {any} */ vm) => new Option(vm.name || vm.id, vm.id, false, vm.id === part.vm)));
  }
}

/** When the part began and ended: on the clock, or for a short one within the recording. @param {Record<string, any>} summary @param {number} clockMs */
function moments({ from_ns: fromNs, to_ns: toNs, started_ns: startedNs }, clockMs) {
  if (toNs - fromNs < 10e9) return `${((fromNs - startedNs) / 1e9).toFixed(2)} to ${place(toNs - startedNs, 1)}`;
  return `${clock(fromNs / 1e6 + clockMs)} to ${clock(toNs / 1e6 + clockMs)}`;
}

/** The columns without a last one that is hardly there: it would look like an end of the faults. @param {Record<string, any>} summary */
function columnsOf({ ticks = [], tick_ns: tickNs, from_ns: fromNs, to_ns: toNs }) {
  const rest = (toNs - fromNs) % tickNs;
  return ticks.length > 1 && rest > 0 && rest < tickNs / 2 ? ticks.slice(0, -1) : ticks;
}

/** Those of the VM on show, each with its place in the recording. @param {Record<string, any>} meta @param {string} recording @param {string} vm */
function migrationsOf(meta, recording, vm) {
  return (meta.migrations ?? []).map((/** @type {any} */ migration, /** @type {number} */ index) => ({ ...migration, recording, index })).filter((/** @type {any} */ migration) => !vm || migration.vm === vm);
}

/** @param {Record<string, any>} meta */
function missing(meta) {
  return (meta.hooks ?? []).filter((/** @type {any} */ hook) => hook.status !== 'attached').map((/** @type {any} */ hook) => `${hook.title || hook.hook}: ${hook.status}`);
}

/** @param {Record<string, any>[]} vms @param {number} spanNs */
function withRates(vms, spanNs) {
  return vms.map((vm) => ({ ...vm, rate_per_s: vm.rate_per_s ?? (Object.entries(vm.faults ?? {}).reduce((sum, [mode, number]) => (mode === 'kernel' ? sum : sum + number), 0) * 1e9) / Math.max(spanNs, 1) }));
}
