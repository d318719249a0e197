// @ts-check
/** The page of one migration's report: asks the server for it, and shows what it says. */
import { address as url, get, lineOf } from './api.mjs';
import { startThemeButton } from './controls.mjs';
import { byId, make, setText } from './dom.mjs';
import { binary, count, duration, moment, share } from './format.mjs';
import { accountChart, bytesChart, eachChart, fillsChart, memoryChart, onceChart, phasesChart, stagesChart, stillChart } from './migration-charts.mjs';
import { showTables } from './migration-tables.mjs';
import { Painter } from './painter.mjs';
import { summaryUrl } from './recorder.mjs';
import { startTheme } from './theme.mjs';
import { startZoneButton } from './zone.mjs';

const AGAIN_MS = 1000;
const query = new URLSearchParams(location.search);
const recording = query.get('recording') ?? '';

/** @type {Record<string, string>} */
const MARKS = { completed: 'COMPLETED', failed: 'FAILED', active: 'STILL GOING ON', ended: 'ENDED' };
/** @type {Record<string, string>} */
const KINDS = { postcopy: 'Postcopy', precopy: 'Precopy', 'page-in': 'Paging in' };

/** The theme before printing, undefined: the system's. @type {string|undefined} */
let chosenTheme;

const input = (/** @type {any} */ view) => view.report;
const chart = (/** @type {string} */ name, /** @type {any} */ draw) => ({ name, plot: byId(`plot-${name}`), draw, input });
const painter = new Painter([
  chart('phases', phasesChart()), chart('still', stillChart()), chart('each', eachChart()), chart('bytes', bytesChart()), chart('fills', fillsChart()),
  chart('memory', memoryChart()), chart('stages', stagesChart()), chart('once', onceChart()), chart('account', accountChart()),
]);
startTheme(() => painter.refresh(true));
startThemeButton(() => painter.refresh(true));
/** @type {Record<string, any>|null} */
let shown = null;
startZoneButton(() => shown && showAbout(shown));
document.querySelector('script[src$="plotly.min.js"]')?.addEventListener('load', () => painter.refresh());
byId('print').addEventListener('click', () => print());
addEventListener('beforeprint', toPaper);
addEventListener('afterprint', toScreen);
open();

async function open() {
  if (!recording) {
    nothing('A migration to look at', 'The report is of one recording: choose it in the list.');
    return;
  }
  setText(byId('notice-text'), 'Reading …');
  try {
    const { migrations = [] } = await finished();
    const number = query.get('migration') ?? String(largest(migrations));
    offer(migrations, number);
    const path = `recordings/${encodeURIComponent(recording)}/migrations/${encodeURIComponent(number)}/report`;
    byId('json').setAttribute('href', url(path));
    byId('download').setAttribute('href', url(`${path}.html`));
    show(await get(path));
  } catch (error) {
    nothing('There is no report of this migration', lineOf(error));
  }
  setText(byId('notice-text'), '');
}

/** What the recording says of itself once it is one: a migration's goes on a moment longer than the migration. */
async function finished() {
  for (;;) {
    const meta = await get(`recordings/${encodeURIComponent(recording)}`);
    if (meta.state !== 'recording') return meta;
    setText(byId('notice-text'), 'Still being recorded: the report comes when the recording has ended …');
    await new Promise((wake) => { setTimeout(wake, AGAIN_MS); });
  }
}

/** Number of the one with most faults; of several the last. @param {any[]} migrations */
function largest(migrations) {
  const faults = migrations.map((one) => Object.entries(one.faults ?? {}).reduce((sum, [mode, number]) => sum + (mode === 'kernel' ? 0 : Number(number)), 0));
  return Math.max(0, faults.lastIndexOf(Math.max(...faults)));
}

/** A recording of several migrations: which of them. @param {any[]} migrations @param {string} number */
function offer(migrations, number) {
  byId('recording').setAttribute('href', summaryUrl(recording));
  if (migrations.length < 2) return;
  const select = /** @type {HTMLSelectElement} */ (byId('number'));
  select.replaceChildren(...migrations.map((one, index) => new Option(`${index}: ${KINDS[one.kind] ?? one.kind} of ${one.vm_name}, ${one.role}`, String(index), false, String(index) === number)));
  select.addEventListener('change', () => location.assign(`migration.html?${new URLSearchParams({ recording, migration: select.value })}`));
  byId('choice').hidden = false;
}

/** @param {string} title @param {string} text */
function nothing(title, text) {
  byId('empty').hidden = false;
  setText(byId('empty-title'), title);
  setText(byId('empty-text'), text);
}

/** When, where and how it is known. @param {Record<string, any>} report */
function showAbout(report) {
  setText(byId('about'), [
    moment(report.started_wall_ms), report.host && `on ${report.host}`, report.role, report.how === 'qmp' ? 'QEMU says so' : 'recognised from what the kernel shows',
  ].filter(Boolean).join(' · '));
}

/** @param {Record<string, any>} report */
function show(report) {
  byId('report').hidden = false;
  document.title = `${KINDS[report.kind] ?? report.kind} of ${report.vm_name} · exitscope`;
  byId('verdict').dataset.state = report.state;
  setText(byId('mark'), MARKS[report.state] ?? report.state);
  shown = report;
  showAbout(report);
  setText(byId('sentence'), report.sentence.replace(/(\d) (?=(?:ns|µs|ms|s|%)(?:\W|$))/g, '$1\u00a0'));
  list('details', report.details);
  list('unknown', report.unknown, 'Nothing that matters.');
  list('evidence', report.evidence, 'Nobody said.');
  list('account-why', report.account.why);
  list('requests-why', report.requests.why);
  figures(report);
  const { brownout, memory } = report;
  const charts = byId('card-time');
  charts.style.setProperty('--rows', String(report.vcpus.length));
  byId('box-stages').style.setProperty('--rows', String(Math.max(1, Object.keys(report.stages).length)));
  setText(byId('still-about'), `of ${brownout.vcpus}: average and most in columns of ${duration(brownout.tick_ns)}, exact`);
  setText(byId('fills-about'), report.fills ? `in columns of ${duration(report.fills.tick_ns)}` : '');
  setText(byId('memory-about'), memory.cells.length ? `faults by guest physical address, ${binary(memory.bin_bytes)} a row` : '');
  part('bytes', (report.samples ?? []).filter((/** @type {any} */ sample) => typeof sample.remaining_bytes === 'number').length > 1);
  part('fills', Boolean(report.fills && (report.fills.demand_total || report.fills.background_total)));
  byId('box-account').hidden = !report.account.known;
  showTables(report);
  painter.show(/** @type {any} */ ({ report, revision: 'one' }));
}

/** A chart over time that has nothing to show is left out. @param {string} name @param {boolean} known */
function part(name, known) {
  byId(`h-${name}`).hidden = !known;
  byId(`box-${name}`).hidden = !known;
}

/** @param {string} id @param {string[]} sentences @param {string} [none] */
function list(id, sentences, none = '') {
  const lines = sentences.length || !none ? sentences : [none];
  byId(id).replaceChildren(...lines.map((line) => make('li', '', line)));
}

/** The numbers that one looks for first. @param {Record<string, any>} report */
function figures(report) {
  const { brownout, account, modes, fills } = report;
  const all = /** @type {any[]} */ (Object.values(modes));
  const faults = all.reduce((sum, one) => sum + one.count, 0);
  const whole = brownout.to_ns - brownout.from_ns;
  const rows = /** @type {[string, string, string][]} */ ([
    ['took', duration(report.length_ns), faults && whole < 0.99 * report.length_ns ? `${duration(whole)} of it with pages missing` : ''],
    ['vCPUs stood still', share(report.standstill?.share ?? brownout.share), `${(report.standstill ? report.standstill.share * report.standstill.vcpus : brownout.mean).toFixed(2)} of ${report.standstill?.vcpus ?? brownout.vcpus} on average`],
    ['all at once, longest', brownout.all_ns ? duration(brownout.all_ns) : 'never', brownout.all_ns ? `${share(account.all_ns / Math.max(whole, 1))} of the time in all` : `at most ${brownout.peak}`],
    ['slowest fault', faults ? duration(Math.max(...all.map((one) => one.max))) : '–', faults ? `p99 ${duration(Math.max(...all.map((one) => one.p99)))}` : ''],
    ['faults', count(faults), fills ? `${count(fills.background_total)} pages came ahead of need` : ''],
    ['QEMU says', account.known ? duration(account.qemu_ns) : 'nothing', `blocktime of all vCPUs; ours ${duration(account.stall_ns)}`],
  ]);
  byId('figures').replaceChildren(...rows.map(([name, value, about]) => make('div', '', make('dt', '', name), make('dd', '', value, make('small', '', about)))));
}

/** As wide as the paper, light, and every chart drawn, also those that were never on screen. */
function toPaper() {
  const Plotly = /** @type {any} */ (globalThis).Plotly;
  if (!painter.view || !Plotly) return;
  const { classList, dataset } = document.documentElement;
  if (!classList.contains('print')) chosenTheme = dataset.theme;
  classList.add('print');
  dataset.theme = 'light';
  painter.refresh(true);
  for (const one of painter.charts) {
    const { width, height } = one.plot.getBoundingClientRect();
    if (!width || !height) continue;
    const figure = one.draw(/** @type {any} */ (painter.view), painter.palette, width, height);
    Plotly.react(one.plot, figure.traces, { ...figure.layout, width, height, autosize: false }, { displayModeBar: false });
  }
}

function toScreen() {
  const { classList, dataset } = document.documentElement;
  if (!classList.contains('print')) return;
  classList.remove('print');
  if (chosenTheme) dataset.theme = chosenTheme;
  else delete dataset.theme;
  painter.refresh(true);
}
