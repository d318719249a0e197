// @ts-check
/** The numbers above the charts, and the table of stages under its bars. */
import { byId, make, setText } from './dom.mjs';
import { stageModes } from './charts/stages.mjs';
import { placed } from './charts/bars.mjs';
import { age, compact, count, covered, duration, NONE, rate, share, span } from './format.mjs';
import { shownVm } from './gaps.mjs';
import { LONG_NS, openFaults } from './open.mjs';
import { focusOf, isActive, stalledShare, vmsAway } from './phases.mjs';
import { groupOf } from './sentences.mjs';
import { MODE_MEANING, MODES, stageMeaning } from './words.mjs';

/** @param {string} id @param {string} text */
const put = (id, text) => setText(byId(id), text);

/** @param {Record<string, any>} frame */
export function showHeadline(frame) {
  const modes = frame.modes ?? {};
  const total = MODES.reduce((sum, mode) => sum + (modes[mode]?.rate_per_s ?? 0), 0);
  put('total-rate', rate(total));
  put('total-count', `${count(MODES.reduce((sum, mode) => sum + (modes[mode]?.count ?? 0), 0))} faults`);
  put('total-window', `in ${filled(frame)}`);
  const open = openFaults(frame);
  put('total-open', open[0]?.age_ns >= LONG_NS ? `${count(open.length)} open · ${age(open[0].age_ns)}` : '');
  byId('total-open').title = 'Faults that are open, and the age of the oldest';
  const none = open.length ? 'none ended in this window' : 'no faults in this window';
  for (const mode of ['uffd', 'exit']) {
    const values = modes[mode] ?? {};
    for (const name of ['p50', 'p99', 'max']) put(`${mode}-${name}`, duration(values.count ? values[name] : null));
    put(`${mode}-rate`, values.count ? `${rate(values.rate_per_s)} · p90 ${duration(values.p90)}` : none);
  }
  for (const [mode, values] of [...['memory_fault', 'async', 'kernel'].map((name) => [name, modes[name]]), ['other', frame.other]]) {
    put(`row-${mode}-count`, values?.count ? compact(values.count) : NONE);
    put(`row-${mode}-p50`, duration(values?.count ? values.p50 || null : null));
    put(`row-${mode}-p99`, duration(values?.count ? values.p99 || null : null));
  }
  showStalls(frame);
  const queue = shownVm(frame)?.unreadable ? {} : frame.queue;
  put('queue-pending', compact(queue?.pending));
  put('queue-total', `of ${compact(queue?.total)} waiting`);
  put('queue-outstanding', `${compact(queue?.outstanding)} being served`);
  showFills(frame);
}

/** The window as far as data fills it. @param {Record<string, any>} frame */
function filled(frame) {
  const short = !frame.at_rest && frame.window_filled_ns < frame.window_ns * 0.98;
  return `${covered(frame)}${short ? ` of ${span(frame.window_ns)}` : ''}`;
}

/** Over the window, and since a migration began. @param {Record<string, any>} frame */
function showStalls(frame) {
  const away = vmsAway(frame);
  const all = /** @type {{vm: string, vcpu: number, stall: number}[]} */ (frame.vcpus ?? []);
  const here = all.filter((row) => !away.has(row.vm));
  const vcpus = /** @type {{vcpu: number, stall: number}[]} */ (here.length ? here : all);
  const worst = vcpus.reduce((a, b) => ((b.stall ?? 0) > (a?.stall ?? -1) ? b : a), /** @type {{vcpu: number, stall: number}|null} */ (null));
  put('stall-mean', share(worst && vcpus.reduce((sum, row) => sum + (row.stall ?? 0), 0) / vcpus.length));
  put('stall-worst', worst?.stall ? `vCPU ${worst.vcpu}: ${share(worst.stall)}` : '');
  const migration = focusOf(frame);
  const so = migration && stalledShare(migration, frame.time_ns);
  put('stall-so-far', typeof so !== 'number' ? '' : isActive(migration) ? `so far ${share(so)}` : `overall ${share(so)}`);
  byId('stall-so-far').title = typeof so === 'number' ? `Share of the vCPUs’ time ${isActive(/** @type {any} */ (migration)) ? 'so far, since pages were first missing' : 'while pages were missing'}` : '';
}

/** Why fills failed. @param {Record<string, number>} counts */
const reasons = (counts) => Object.entries(counts).map(([errno, count]) => `${errno}: ${compact(count)}`).join(', ');

/** @param {Record<string, any>} frame */
function showFills(frame) {
  const failed = frame.fills?.failed ?? 0;
  const known = frame.fills !== null; // of a part of a recording they may not be: that is not none
  put('fills-demand', known ? compact(placed(frame.fills?.demand)) : '–');
  put('fills-background', known ? `${compact(placed(frame.fills?.background))} background` : 'not known of this part');
  put('fills-failed', known ? `${compact(failed)} failed` : '');
  byId('fills-failed').title = reasons(frame.fills?.failed_by ?? {});
  byId('fills-failed').classList.toggle('bad', failed > 0);
}

/** Rows of the table of stages; the last one closes the fault in either mode. */
const ROWS = ['raise', 'notify', 'serve', 'fill', 'wake'];
let drawnModes = '';

/** @param {Record<string, any>} frame */
export function showStageTable(frame) {
  const modes = stageModes(frame.stages);
  const table = /** @type {HTMLTableElement} */ (byId('stage-table'));
  if (modes.join() !== drawnModes) build(table, modes);
  ROWS.forEach((row, index) => {
    modes.forEach((mode, column) => {
      const stage = frame.stages?.[mode]?.[row] ?? (row === 'wake' ? frame.stages?.[mode]?.reenter : undefined);
      ['p50', 'p99'].forEach((name, offset) => setText(table.tBodies[0].rows[index].cells[1 + 2 * column + offset], duration(stage?.count ? stage[name] : null)));
    });
  });
}

/** @param {HTMLTableElement} table @param {string[]} modes */
function build(table, modes) {
  drawnModes = modes.join();
  table.tHead?.remove();
  for (const body of [...table.tBodies]) body.remove();
  const head = table.createTHead();
  const names = head.insertRow();
  const corner = make('td', '', 'Stage');
  corner.setAttribute('rowspan', '2');
  names.append(corner, ...modes.map((mode) => {
    const cell = make('th', `mode mode-${mode}`, mode);
    cell.setAttribute('colspan', '2');
    cell.title = MODE_MEANING[mode] ?? '';
    return cell;
  }));
  head.insertRow().append(...modes.flatMap(() => [make('th', 'number', 'p50'), make('th', 'number', 'p99')]));
  table.createTBody().append(...ROWS.map((row) => make('tr', '', make('th', 'stage-name', make('i', `dot stage-${row}`), row === 'wake' ? 'wake / reenter' : row, make('small', '', whose(row)), make('small', 'meaning', meaning(row))),
    ...modes.flatMap(() => [make('td', 'number'), make('td', 'number')]))));
}

/** @param {string} row */
const whose = (row) => `${groupOf(row)}${row === 'serve' ? ', inferred' : ''}`;

/** @param {string} row */
function meaning(row) {
  return row === 'wake' ? 'fill done → vCPU runs again' : stageMeaning('uffd', row);
}
