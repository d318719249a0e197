// @ts-check
/** The page of two recordings against each other: asks the server to compare, and shows what it says. */
import { address, get, lineOf } from './api.mjs';
import { ecdfChart, factor, figuresOf, ratioChart, stagesChart, vcpusChart } from './charts/compare.mjs';
import { startThemeButton } from './controls.mjs';
import { byId, make, setText } from './dom.mjs';
import { count, duration, moment, position, rate, share, vcpuCount } from './format.mjs';
import { Painter } from './painter.mjs';
import { summaryUrl } from './recorder.mjs';
import { startTheme } from './theme.mjs';
import { MODES } from './words.mjs';
import { startZoneButton } from './zone.mjs';

/** @typedef {{a: string, b: string, force: string, vm_a: string, vm_b: string}} Asked */

const SIDES = /** @type {const} */ (['a', 'b']);
const query = new URLSearchParams(location.search);
const asked = /** @type {Asked} */ (Object.fromEntries(['a', 'b', 'force', 'vm_a', 'vm_b'].map((name) => [name, query.get(name) ?? ''])));

/** @type {Record<string, string>} */
const MARKS = { a_faster: 'A IS FASTER', b_faster: 'B IS FASTER', no_difference: 'NO DIFFERENCE', refused: 'NO WINNER: UNFAIR CONDITIONS', not_enough: 'NOT ENOUGH TO TELL' };

/** This page with something else asked for. @param {Partial<Asked>} change */
function urlOf(change) {
  const values = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...asked, ...change })) if (value) values.set(name, value);
  return `compare.html?${values}`;
}

const p99 = /** @type {HTMLInputElement} */ (byId('vcpus-p99'));
const input = (/** @type {any} */ view) => view.comparison;
const painter = new Painter([
  { name: 'ratio', plot: byId('plot-ratio'), draw: /** @type {any} */ (ratioChart()), input },
  { name: 'vcpus', plot: byId('plot-vcpus'), draw: /** @type {any} */ (vcpusChart(() => (p99.checked ? 'p99' : 'p50'))), input },
  { name: 'ecdf', plot: byId('plot-ecdf'), draw: /** @type {any} */ (ecdfChart()), input },
  { name: 'stages', plot: byId('plot-stages'), draw: /** @type {any} */ (stagesChart()), input },
]);
startTheme(() => painter.refresh(true));
startThemeButton(() => painter.refresh(true));
/** @type {Record<string, any>|null} */
let shown = null;
startZoneButton(() => SIDES.forEach((side) => shown && showRun(side, shown[side])));
for (const radio of document.getElementsByName('vcpus')) radio.addEventListener('change', () => painter.refresh());
document.querySelector('script[src$="plotly.min.js"]')?.addEventListener('load', () => painter.refresh());
byId('force').addEventListener('click', () => location.assign(urlOf({ force: 'true' })));
byId('swap').setAttribute('href', urlOf({ a: asked.b, b: asked.a, vm_a: asked.vm_b, vm_b: asked.vm_a }));
byId('json').setAttribute('href', address('compare', asked));
byId('report').setAttribute('href', address('compare', { ...asked, format: 'html' }));
open();

async function open() {
  if (!asked.a || !asked.b) {
    nothing('Two recordings to compare', 'A comparison needs an A and a B.');
    return;
  }
  setText(byId('notice-text'), 'Comparing …');
  try {
    show(await get('compare', asked));
  } catch (error) {
    nothing('These two cannot be compared', lineOf(error));
  }
  setText(byId('notice-text'), '');
}

/** @param {string} title @param {string} text */
function nothing(title, text) {
  byId('empty').hidden = false;
  setText(byId('empty-title'), title);
  setText(byId('empty-text'), text);
}

/** @param {Record<string, any>} comparison */
function show(comparison) {
  shown = comparison;
  byId('comparison').hidden = false;
  showVerdict(comparison);
  for (const side of SIDES) {
    showRun(side, comparison[side]);
    offerVms(side);
  }
  showConditions(comparison);
  showFigures(comparison);
  showStages(comparison);
  showCounts(comparison);
  painter.show(/** @type {any} */ ({ comparison, revision: 'one' }));
  document.title = `${comparison.a.name} against ${comparison.b.name} · exitscope`;
}

/** @param {Record<string, any>} comparison */
function showVerdict({ verdict }) {
  byId('verdict').dataset.outcome = verdict.outcome;
  const mark = byId('verdict-mark');
  setText(mark, `${verdict.forced ? 'FORCED, CONDITIONS ARE UNFAIR · ' : ''}${MARKS[verdict.outcome] ?? verdict.outcome}`);
  mark.classList.toggle('forced', Boolean(verdict.forced));
  setText(byId('verdict-sentence'), verdict.sentence);
  byId('verdict-details').replaceChildren(...(verdict.details ?? []).map((/** @type {string} */ detail) => make('li', '', detail)));
  byId('force').hidden = verdict.outcome !== 'refused';
}

/** @param {Record<string, any>} run */
function modeOf({ mode, modes = {} }) {
  if (mode === 'mixed') return `mixed: ${Object.entries(modes).map(([name, number]) => `${name} ${count(number)}`).join(', ')}`;
  return MODES.includes(mode) ? `${mode} mode` : mode;
}

/** @param {'a'|'b'} side @param {Record<string, any>} run */
function showRun(side, run) {
  const name = byId(`${side}-name`);
  setText(name, run.name || run.id);
  name.title = run.name || run.id;
  name.setAttribute('href', summaryUrl(run.id));
  setText(byId(`${side}-what`), `${modeOf(run)} · ${vcpuCount(run.vcpus)}`);
  setText(byId(`${side}-when`), `${moment(run.started_wall_ms)}, for ${position(run.duration_ns)}`);
  setText(byId(`${side}-size`), `${count(run.faults)} faults in ${duration(run.active_ns)} of activity`);
}

/** A recording of several VMs: which of them is compared. @param {'a'|'b'} side */
async function offerVms(side) {
  const select = /** @type {HTMLSelectElement} */ (byId(`${side}-vm`));
  const chosen = asked[/** @type {'vm_a'|'vm_b'} */ (`vm_${side}`)];
  try {
    const { vms = [] } = await get(`recordings/${encodeURIComponent(asked[side])}`);
    if (vms.length < 2) return;
    select.replaceChildren(new Option('All VMs together', ''), ...vms.map((/** @type {any} */ vm) => new Option(vm.name || vm.id, vm.id, false, vm.id === chosen)));
    select.addEventListener('change', () => location.assign(urlOf({ [`vm_${side}`]: select.value })));
    byId(`${side}-vm-label`).hidden = false;
  } catch { /* compared as asked */ }
}

/** @param {Record<string, any>} comparison */
function showConditions({ differences = [], conditions_checked: checked = [] }) {
  const unfair = differences.filter((/** @type {any} */ one) => one.unfair).length;
  const named = new Set(differences.map((/** @type {any} */ one) => one.condition));
  const same = checked.filter((/** @type {string} */ name) => !named.has(name));
  setText(byId('conditions-count'), differences.length
    ? `${count(differences.length)} of ${count(checked.length)} differ${unfair ? `, ${count(unfair)} of them ${unfair === 1 ? 'makes' : 'make'} the comparison unfair` : '; none makes the comparison unfair'}`
    : `all ${count(checked.length)} are the same`);
  byId('conditions-table').hidden = differences.length === 0;
  /** @type {HTMLTableElement} */ (byId('conditions-table')).tBodies[0].replaceChildren(...differences.map((/** @type {any} */ one) =>
    make('tr', one.unfair ? 'unfair' : '', make('td', '', one.condition), make('td', '', one.a), make('td', '', one.b), make('td', '', one.why))));
  setText(byId('conditions-same'), same.length ? `The same in both: ${same.join(', ')}.` : '');
}

/** A figure and its interval. @param {any} bounds @param {(value: number) => string} format */
function cell(bounds, format) {
  const made = make('td', 'number', bounds ? format(bounds.value) : '–');
  const known = bounds && bounds.low !== null && bounds.low !== undefined;
  made.append(make('small', '', known ? `${format(bounds.low)} to ${format(bounds.high)}` : ''));
  return made;
}

/** @param {Record<string, any>} comparison */
function showFigures(comparison) {
  setText(byId('figures-about'), `intervals at ${share(comparison.confidence)}${comparison.drift ? `; B / A allows for a drift of ${share(comparison.drift)} from run to run` : ''}`);
  const body = /** @type {HTMLTableElement} */ (byId('figures')).tBodies[0];
  const figures = figuresOf(comparison);
  byId('figures').parentElement?.style.setProperty('--rows', String(figures.length));
  byId('figures').parentElement?.classList.toggle('none', figures.length === 0);
  body.replaceChildren(...figures.map(([name, figure]) => {
    const format = name === 'rate' ? rate : duration;
    const ratio = cell(figure.ratio, factor);
    ratio.classList.toggle('differs', Boolean(figure.differs));
    return make('tr', '', make('th', '', name), cell(figure.a, format), cell(figure.b, format), ratio);
  }));
}

/** @param {number|null|undefined} ns */
const signed = (ns) => (typeof ns === 'number' ? `${ns > 0 ? '+' : ns < 0 ? '−' : ''}${duration(Math.abs(ns))}` : '–');

/** @param {Record<string, any>} comparison */
function showStages({ stages = [] }) {
  byId('stages').parentElement?.classList.toggle('none', stages.length === 0);
  /** @type {HTMLTableElement} */ (byId('stages')).tBodies[0].replaceChildren(...stages.map((/** @type {any} */ row) =>
    make('tr', '', make('th', '', row.stage), make('td', 'number', row.a_ns ? duration(row.a_ns) : '–'), make('td', 'number', row.b_ns ? duration(row.b_ns) : '–'), make('td', 'number', signed(row.difference_ns)), cell(row.mean_difference_ns, signed))));
}

/** @param {Record<string, any>} comparison */
function showCounts({ exits = {}, fills = {} }) {
  const rows = (/** @type {string} */ title, /** @type {Record<string, any>} */ counts) => {
    const listed = Object.entries(counts).filter(([, pair]) => pair.a || pair.b);
    const group = make('tr', 'group', make('th', '', listed.length ? title : `${title}: none`), make('td'), make('td'));
    return [group, ...listed.map(([name, pair]) => {
      const head = make('th', '', name.replace(/^KVM_EXIT_/, ''));
      head.title = name;
      return make('tr', '', head, make('td', 'number', count(pair.a)), make('td', 'number', count(pair.b)));
    })];
  };
  /** @type {HTMLTableElement} */ (byId('counts')).tBodies[0].replaceChildren(...rows('Exits to userspace', exits), ...rows('Pages filled', fills));
}
