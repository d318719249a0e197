// @ts-check
/** The tables of a migration's report. */
import { byId, make, setAttribute } from './dom.mjs';
import { address, count, duration, NONE, share } from './format.mjs';
import { GROUPS } from './migration-charts.mjs';
import { STAGES, stageMeaning } from './words.mjs';

/** @typedef {Record<string, any>} Report */

/** @param {string} id @returns {HTMLTableSectionElement} */
const bodyOf = (id) => /** @type {HTMLTableElement} */ (byId(id)).tBodies[0];

/** @param {...string} texts */
const numbers = (...texts) => texts.map((text) => make('td', 'number', text));

/** Percentiles of what was seen at all. @param {any} one @param {string[]} names */
const lengths = (one, ...names) => numbers(...names.map((name) => (one.count ? duration(one[name]) : NONE)));

/** @param {Report} report @param {number} ns a moment, as seconds since the begin */
const since = (report, ns) => `${((ns - report.from_ns) / 1e9).toFixed(3)}\u00a0s`;

/** @param {string} id @param {HTMLElement[]} rows @param {string} [none] */
function fill(id, rows, none = '') {
  const columns = byId(id).querySelectorAll('thead th').length || 2;
  const empty = make('td', 'quiet', none);
  setAttribute(empty, 'colspan', String(columns));
  bodyOf(id).replaceChildren(...(rows.length || !none ? rows : [make('tr', '', empty)]));
}

/** @param {Report} report */
export function showTables(report) {
  stages(report);
  modes(report);
  worst(report);
  slowest(report);
  account(report);
  requests(report);
  vcpus(report);
  fill('handlers', report.handlers.map((/** @type {any} */ one) => {
    const name = make('td', '', `${one.role ?? (one.name || 'thread')} ${one.tid}`);
    name.title = one.name;
    return make('tr', '', name, ...numbers(count(one.faults)), ...lengths(one.serve_ns, 'p50', 'p99'));
  }), 'Nobody was seen to fill a page.');
  fill('memslots', report.memory.memslots.map((/** @type {any} */ one) => make('tr', '', ...numbers(String(one.memslot), one.from_gpa, one.to_gpa, count(one.faults)))), 'Not known.');
}

/** @param {Report} report */
function stages(report) {
  const families = Object.entries(report.stages);
  fill('stages', families.flatMap(([family, parts]) => parts.map((/** @type {any} */ part) => {
    const name = make('th', '', make('span', `dot stage-${GROUPS[part.group]}`), families.length > 1 ? `${family}: ${part.title}` : part.title, make('em', 'inferred', part.inferred ? 'inferred' : ''));
    return make('tr', '', name, ...numbers(share(part.share), duration(part.latency_ns.sum)), ...lengths(part.latency_ns, 'p50', 'p90', 'p99', 'max'));
  })), 'No vCPU waited for a page.');
}

/** @param {Report} report */
function modes(report) {
  fill('modes', Object.entries(report.modes).map(([mode, one]) =>
    make('tr', '', make('td', `mode mode-${mode}`, mode), ...numbers(count(one.count)), ...lengths(one, 'p50', 'p90', 'p99', 'max', 'sum'))), 'No vCPU waited for a page.');
}

/** @param {Report} report */
function worst(report) {
  fill('worst', report.worst.map((/** @type {any} */ one) => {
    const { longest } = one;
    const fault = `${duration(longest.latency_ns)}, vCPU ${longest.vcpu}, ${longest.mode}${longest.gpa ? `, page ${address(longest.gpa)}` : ''}, ${served(longest)}`;
    return make('tr', '', ...numbers(since(report, one.from_ns), duration(one.to_ns - one.from_ns), `${one.mean.toFixed(2)} of ${report.brownout.vcpus}`, String(one.peak), count(one.faults)), make('td', '', fault));
  }), 'No vCPU stood still.');
}

/** @param {any} fault */
function served(fault) {
  if (!fault.handler_tid) return 'not seen by whom';
  return `by ${fault.handler_role ?? (fault.handler_name || 'thread')} ${fault.handler_tid}, ${fault.resolver}`;
}

/** As long as the fault, against the slowest. @param {any} fault @param {number} longestNs */
function strip(fault, longestNs) {
  const known = STAGES.filter((stage) => fault.stages_ns[stage] > 0);
  const total = known.reduce((sum, stage) => sum + fault.stages_ns[stage], 0) || 1;
  const made = make('span', 'strip', ...known.map((stage) => {
    const part = make('i', `stage-${stage}`);
    part.style.width = `${((fault.stages_ns[stage] / total) * 100).toFixed(2)}%`;
    return part;
  }));
  made.style.width = `${Math.max(4, (fault.latency_ns / longestNs) * 100).toFixed(1)}%`;
  made.title = known.map((stage) => `${stage} ${duration(fault.stages_ns[stage])} (${stageMeaning(fault.mode, stage)})`).join('\n');
  setAttribute(made, 'role', 'img');
  setAttribute(made, 'aria-label', made.title);
  return made;
}

/** @param {Report} report */
function slowest(report) {
  const faults = report.slowest;
  const longestNs = Math.max(1, ...faults.map((/** @type {any} */ fault) => fault.latency_ns));
  const used = STAGES.filter((stage) => faults.some((/** @type {any} */ fault) => fault.stages_ns[stage] > 0));
  byId('stage-legend').replaceChildren(...used.map((stage) => make('li', `stage-${stage}`, stage)));
  fill('slowest', faults.map((/** @type {any} */ fault) => {
    const by = make('td', '', served(fault).replace(/^by /, ''));
    by.title = fault.handler_name;
    return make('tr', '', ...numbers(since(report, fault.time_ns), duration(fault.latency_ns), String(fault.vcpu)), make('td', `mode mode-${fault.mode}`, fault.mode), make('td', 'wide', strip(fault, longestNs)), ...numbers(address(fault.gpa), fault.memslot === null ? NONE : String(fault.memslot)), by);
  }), 'No vCPU waited for a page.');
}

/** From QEMU's account to ours. @param {Report} report */
function account({ account: found }) {
  const row = (/** @type {string} */ name, /** @type {number|null} */ ns, /** @type {number|null} */ all, kind = '') =>
    make('tr', kind, make('th', '', name), ...numbers(ns === null ? 'not told' : duration(ns), all === undefined ? '' : all === null ? 'not told' : duration(all)));
  const part = (/** @type {string} */ name, /** @type {number} */ ns) => make('tr', '', make('th', '', name), ...numbers(duration(ns), ''));
  fill('account', [
    row('QEMU’s vcpu-blocktime', found.qemu_ns, found.qemu_all_ns, 'total'),
    row('ours counted the same way: event read to page placed', found.same_ns, found.same_all_ns),
    part('+ before that: raise and notify', found.before_ns),
    part('+ after that: wake', found.after_ns),
    ...(found.unread_ns ? [part('+ faults without an event that was read', found.unread_ns)] : []),
    ...(found.overlap_ns ? [part('− several faults of one vCPU at once', found.overlap_ns)] : []),
    row('ours in full', found.stall_ns, found.all_ns, 'total'),
  ]);
}

/** @param {Report} report */
function requests({ requests: found }) {
  const row = (/** @type {string} */ name, /** @type {number|null} */ value) => make('tr', '', make('th', '', name), ...numbers(value === null ? 'not known' : count(value)));
  fill('requests', [
    row('faults that were recorded', found.faults), row('events that a handler has read', found.events), row('different pages among these', found.pages), row('requests that the source got', found.requests),
  ]);
}

/** @param {Report} report */
function vcpus(report) {
  fill('vcpus', report.vcpus.map((/** @type {any} */ row) => make('tr', '', ...numbers(
    String(row.vcpu), duration(row.stall_ns), share(row.share), duration(row.kernel_stall_ns), duration(row.qemu_ns), duration(row.same_ns), count(row.latency_ns.count),
  ), ...lengths(row.latency_ns, 'p50', 'p99', 'max'))), 'No vCPU is known.');
  byId('vcpus-about').textContent = `${count(report.vcpus.length)}; the kernel’s count has the faults that it solved alone, too`;
}
