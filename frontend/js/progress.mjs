// @ts-check
/** The strip of a migration: what kind, how it is known, its phases, how far it is, and where its report is. */
import { get } from './api.mjs';
import { byId, make, setAttribute, setText } from './dom.mjs';
import { age, bytes, compact, count, duration, durations, share, vcpuCount } from './format.mjs';
import { blocktimeNs, isActive, kindWords, notFollowed, phaseColour, phasesOf, shownMigrations, stalledShare, stallNs } from './phases.mjs';

/** @typedef {import('./phases.mjs').Migration} Migration */
/** A figure with what it is called, and its meaning; `old`: how long ago QEMU said it, if it should have said something newer. @typedef {{name: string, value: string, title: string, part?: number, old?: string}} Fact */

/** A phase shorter than this share of the whole has no room for its name. */
const NAMED = 0.16;
const SPACE = '\u00a0';
/** QEMU answers several times a second while it migrates: what it said longer ago than this is not of now. */
const FRESH_NS = 2e9;

/** @param {Migration} migration @param {number} nowNs @returns {Fact[]} what is known, in the order of interest */
export function factsOf(migration, nowNs) {
  // Only the source knows what is left; when both sides are on this host, the destination may say it too.
  const sides = [migration.qmp, migration.otherSide?.qmp].filter(Boolean);
  const qmp = Object.assign({}, ...[...sides].reverse().map((side) => Object.fromEntries(Object.entries(side).filter(([, value]) => value !== null))));
  const ageOf = (/** @type {string} */ name) => (migration.to_ns ?? nowNs) - (sides.find((side) => typeof side[name] === 'number')?.at_ns ?? nowNs);
  /** @type {Fact[]} */
  const facts = [];
  const add = (/** @type {string} */ name, /** @type {() => Fact} */ make) => {
    if (typeof qmp[name] !== 'number') return;
    const ns = ageOf(name);
    const when = migration.to_ns ? `${age(ns)} before its end` : `${age(ns)} ago`;
    const fact = make();
    facts.push({ ...fact, title: ns >= 0 ? `${fact.title}, as it said ${when}` : fact.title, ...(ns > FRESH_NS && !migration.at_rest ? { old: when } : {}) });
  };
  add('remaining_bytes', () => {
    const pages = qmp.page_bytes ? `, ${count(Math.round(qmp.remaining_bytes / qmp.page_bytes))} pages` : '';
    return { name: 'left', value: `${bytes(qmp.remaining_bytes)}${qmp.total_bytes ? ` of ${bytes(qmp.total_bytes)}` : ''}`, title: `QEMU: ${bytes(qmp.remaining_bytes)} of guest memory left${pages}`,
      ...(qmp.total_bytes ? { part: 1 - qmp.remaining_bytes / qmp.total_bytes } : {}) };
  });
  if (isActive(migration)) add('bytes_per_s', () => ({ name: 'bandwidth', value: `${bytes(qmp.bytes_per_s)}/s`, title: `QEMU: sending ${bytes(qmp.bytes_per_s)} per second${qmp.max_postcopy_bytes_per_s ? `, at most ${bytes(qmp.max_postcopy_bytes_per_s)} per second for what is pushed` : ''}` }));
  add('postcopy_requests', () => ({ name: 'requests', value: compact(qmp.postcopy_requests), title: `QEMU: ${count(qmp.postcopy_requests)} pages asked for by the destination` }));
  add(qmp.downtime_ns ? 'downtime_ns' : 'expected_downtime_ns', () => ({ name: qmp.downtime_ns ? 'downtime' : 'downtime expected', value: duration(qmp.downtime_ns ?? qmp.expected_downtime_ns), title: 'QEMU: how long the guest as a whole stood still at the switch' }));
  const { demand = 0, background = 0, woken = 0 } = migration.fills ?? {};
  if (demand + background > 0) facts.push({ name: 'on demand', value: `${compact(demand)} of ${compact(demand + background)}`, title: `${count(demand)} pages placed for somebody who waited, ${count(background)} ahead of need` });
  if (woken > 0) facts.push({ name: 'by WAKE', value: compact(woken), title: `${count(woken)} faults answered by UFFDIO_WAKE alone: their pages were placed otherwise, such as by a write into shared memory` });
  if (migration.stall?.length && (migration.role !== 'source' || stallNs(migration) > 0)) {
    const stalled = stalledShare(migration, nowNs);
    facts.push({ name: 'stalled', value: `${share(stalled)}`, title: `exitscope: ${vcpuCount(migration.stall.length)} stood still for ${duration(stallNs(migration))} together, ${share(stalled)} of their time since pages were first missing` });
    const blocked = blocktimeNs(migration);
    facts.push(blocked === null
      ? { name: 'vCPUs blocked', value: duration(stallNs(migration)), title: 'Time in faults of all vCPUs together, as exitscope measured it. QEMU keeps no account of its own here (postcopy-blocktime is off).' }
      : { name: 'QEMU | exitscope', value: durations(blocked, stallNs(migration)), title: 'Time that the vCPUs were blocked, all together: QEMU’s blocktime beside our stall' });
  }
  return facts;
}

/** Both sides of a migration are of one kind; the source is not always asked in time to have heard of it. @param {Migration} migration */
const kindOf = ({ kind, otherSide }) => (kind === 'precopy' && otherSide?.kind === 'postcopy' ? 'postcopy' : kind);

/** What it is at. @param {Migration} migration @param {number} nowNs */
function statusWords(migration, nowNs) {
  const { qmp } = migration;
  if (kindOf(migration) !== migration.kind) return 'postcopy, as the other side says';
  if (!qmp?.status) return 'active';
  const ageNs = nowNs - (qmp.at_ns ?? nowNs);
  return ageNs > FRESH_NS ? `${qmp.status}, as QEMU said ${age(ageNs)} ago` : qmp.status;
}

/** Where a migration's recording and report are, once it has ended. */
class Link {
  constructor() {
    this.element = /** @type {HTMLAnchorElement} */ (make('a', 'button report', 'Report'));
    this.element.hidden = true;
    this.asked = '';
  }

  /** @param {Migration} migration */
  async show(migration) {
    const { recording } = migration;
    this.element.hidden = isActive(migration) || !recording;
    if (this.element.hidden || this.asked === recording) return;
    this.asked = recording;
    this.#to(recording, migration.index ?? 0);
    if (migration.index !== undefined) return;
    try {
      const { migrations = [] } = await get(`recordings/${encodeURIComponent(recording)}`);
      const at = migrations.findIndex((/** @type {Migration} */ each) => each.id === migration.id);
      if (at > 0) this.#to(recording, at);
    } catch { /* the first is the likeliest */ }
  }

  /** @param {string} recording @param {number} index */
  #to(recording, index) {
    setAttribute(this.element, 'href', `migration.html?${new URLSearchParams({ recording, migration: String(index) })}`);
  }
}

/** One migration on the page. */
class Row {
  /** @param {string} id */
  constructor(id) {
    this.id = id;
    this.kind = make('h2');
    this.role = make('span', 'role');
    this.state = make('span', 'chip');
    this.how = make('span', 'chip');
    this.follow = make('span', 'chip amber');
    this.link = new Link();
    this.more = /** @type {HTMLButtonElement} */ (make('button', 'more', 'How it is known'));
    this.more.type = 'button';
    this.phases = make('div', 'phases');
    setAttribute(this.phases, 'role', 'img');
    this.facts = make('dl', 'facts');
    this.detail = make('div', 'detail');
    this.detail.hidden = true;
    setAttribute(this.more, 'aria-expanded', 'false');
    this.more.addEventListener('click', () => {
      this.detail.hidden = !this.detail.hidden;
      setAttribute(this.more, 'aria-expanded', String(!this.detail.hidden));
    });
    this.element = make('article', 'migration', make('header', '', this.kind, this.role, this.state, this.how, this.follow, make('span', 'gap'), this.link.element, this.more), make('div', 'course', this.phases, this.facts), this.detail);
    this.told = '';
  }

  /** @param {Migration} migration @param {number} nowNs @param {boolean} named whether to say whose it is */
  show(migration, nowNs, named) {
    const lengthNs = (migration.to_ns ?? nowNs) - migration.from_ns;
    setAttribute(this.element, 'data-state', migration.state);
    setAttribute(this.element, 'data-kind', migration.kind);
    setText(this.kind, `${kindWords({ ...migration, kind: kindOf(migration) })}${named ? ` of ${migration.vm_name || migration.vm}` : ''}`);
    setText(this.role, migration.kind === 'page-in' ? 'memory comes in while the VM runs' : `this VM is the ${migration.role}`);
    const state = isActive(migration) ? `${statusWords(migration, nowNs)} · ${age(lengthNs)}` : `${migration.state} after ${duration(lengthNs)}, ${age(nowNs - migration.to_ns)} ago`;
    setText(this.state, nowNs === migration.to_ns || migration.at_rest ? state.replace(/, [^,]* ago$/, '') : state);
    setAttribute(this.state, 'class', `chip ${isActive(migration) ? 'blue' : { failed: 'red', completed: 'green' }[/** @type {string} */ (migration.state)] ?? ''}`);
    const known = migration.how === 'qmp' ? 'from QEMU (QMP)' : 'from the kernel: inferred';
    setText(this.how, known);
    this.how.title = (migration.evidence ?? []).join('\n');
    const not = notFollowed(migration);
    this.follow.hidden = !not;
    setText(this.follow, not?.words ?? '');
    this.follow.title = not?.reason ?? '';
    this.link.show(migration);
    this.#phases(migration, nowNs, lengthNs);
    this.#facts(factsOf(migration, nowNs));
    if (!this.detail.hidden || !this.told) this.#detail(migration, not?.reason ?? '');
  }

  /** @param {Migration} migration @param {number} nowNs @param {number} lengthNs */
  #phases(migration, nowNs, lengthNs) {
    const phases = phasesOf(migration, nowNs);
    while (this.phases.children.length > phases.length) this.phases.lastElementChild?.remove();
    while (this.phases.children.length < phases.length) this.phases.append(make('span', '', make('b'), make('span')));
    const words = phases.map((phase) => `${phase.name} ${duration(phase.toNs - phase.fromNs)}${phase.open ? ' so far' : ''}`);
    phases.forEach((phase, index) => {
      const part = /** @type {HTMLElement} */ (this.phases.children[index]);
      const [name, length] = [...part.children];
      const ns = phase.toNs - phase.fromNs;
      setAttribute(part, 'class', `phase phase-${phaseColour(phase.name)}${phase.open ? ' open' : ''}${ns < lengthNs * NAMED ? ' short' : ''}`);
      part.style.flexGrow = String(Math.max(ns / Math.max(lengthNs, 1), 0.001).toFixed(3));
      setText(name, phase.name);
      setText(length, duration(ns).replaceAll(' ', SPACE));
      part.title = words[index];
    });
    setAttribute(this.phases, 'aria-label', `Phases: ${words.join(', ')}.`);
  }

  /** @param {Fact[]} facts */
  #facts(facts) {
    while (this.facts.children.length > facts.length) this.facts.lastElementChild?.remove();
    while (this.facts.children.length < facts.length) this.facts.append(make('div', '', make('dt', '', make('span'), make('small')), make('dd')));
    facts.forEach((fact, index) => {
      const cell = /** @type {HTMLElement} */ (this.facts.children[index]);
      const [[name, old], value] = [[...cell.children[0].children], cell.children[1]];
      setText(name, fact.name);
      setText(old, fact.old ? ` · ${fact.old}` : '');
      cell.classList.toggle('old', Boolean(fact.old));
      setText(value, fact.value);
      if (cell.title !== fact.title) cell.title = fact.title;
      cell.classList.toggle('part', fact.part !== undefined);
      if (fact.part !== undefined) cell.style.setProperty('--part', `${(Math.min(Math.max(fact.part, 0), 1) * 100).toFixed(1)}%`);
    });
  }

  /** @param {Migration} migration @param {string} reason */
  #detail(migration, reason) {
    const key = JSON.stringify([migration.evidence, reason, migration.qmp?.vcpu_blocktime_ns, migration.stall, migration.qmp?.capabilities]);
    if (key === this.told) return;
    this.told = key;
    const evidence = migration.evidence ?? [];
    const each = migration.qmp?.vcpu_blocktime_ns ?? [];
    const rows = (migration.stall ?? []).slice(0, 16);
    this.detail.replaceChildren(
      make('ul', '', ...evidence.map((/** @type {string} */ line) => make('li', '', line)), ...(reason ? [make('li', '', reason)] : []), ...(migration.qmp?.capabilities?.length ? [make('li', '', `Capabilities on: ${migration.qmp.capabilities.join(', ')}`)] : [])),
      ...(each.length && rows.length ? [make('table', '', make('thead', '', make('tr', '', make('th', '', 'vCPU'), make('th', '', 'QEMU’s blocktime'), make('th', '', 'stall, exitscope'))),
        make('tbody', '', ...rows.map((/** @type {any} */ row) => make('tr', '', make('td', '', String(row.vcpu)), make('td', '', duration(each[row.vcpu])), make('td', '', duration(row.stall_ns))))))] : []),
    );
  }
}

export class ProgressStrip {
  constructor() {
    /** @type {Row[]} */
    this.rows = [];
  }

  /** @param {Record<string, any>|null} frame @param {import('./samples.mjs').Samples|null} [samples] */
  show(frame, samples = null) {
    const shown = frame ? shownMigrations(frame) : [];
    const box = byId('migrations');
    box.hidden = shown.length === 0;
    if (shown.map(({ id }) => id).join() !== this.rows.map(({ id }) => id).join()) {
      this.rows = shown.map(({ id }) => this.rows.find((row) => row.id === id) ?? new Row(id));
      box.replaceChildren(...this.rows.map(({ element }) => element));
    }
    const named = frame?.vm === 'all' || new Set(shown.map(({ vm }) => vm)).size > 1;
    shown.forEach((migration, index) => this.rows[index].show({ ...migration, at_rest: frame?.at_rest, otherSide: shown.find(({ id }) => id === migration.other) ?? samples?.otherOf(migration.other) }, frame?.time_ns ?? 0, named));
    const said = shown.map((each) => `${kindWords(each)} of ${each.vm_name || each.vm}: ${each.state}.`).join(' ');
    setText(byId('migration-said'), said);
  }
}

/** One word or two for the list of VMs. @param {Record<string, any>} frame @param {string} vm */
export function migrationOf(frame, vm) {
  const mine = (frame.migrations ?? []).filter((/** @type {Migration} */ each) => each.vm === vm).sort((/** @type {Migration} */ a, /** @type {Migration} */ b) => b.from_ns - a.from_ns)[0];
  if (!mine) return '';
  const kind = kindOf({ ...mine, otherSide: (frame.migrations ?? []).find((/** @type {Migration} */ each) => each.id === mine.other) });
  return isActive(mine) ? `${kind}${kind === 'page-in' ? '' : `, ${mine.role}`} · ${age(frame.time_ns - mine.from_ns)}` : `${kind} ${mine.state}`;
}
