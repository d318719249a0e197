// @ts-check
/** Alarms: a line under the header that is always there, a count in the ledger row and the title, all of them in a panel. */
import { byId, make, setAttribute, setText } from './dom.mjs';
import { age, clock, count, duration, NONE } from './format.mjs';
import { openFaults } from './open.mjs';
import { startPanel } from './popup.mjs';

/** As many stand on the line; the panel has all. */
const MOST = 3;
const TITLE = 'exitscope';

/**
 * @typedef {object} Alarm
 * @property {string} id @property {string} kind @property {string} vm @property {string} vm_name @property {number|null} [vcpu]
 * @property {'warning'|'critical'} severity @property {string} message @property {string} hint
 * @property {number} since_ns @property {boolean} active @property {number|null} [ended_ns]
 */

/** Not by colour alone: a shape and a word. @param {string} severity */
const mark = (severity) => (severity === 'critical' ? '◆' : '▲');

/** @param {Alarm} alarm */
const worst = (alarm) => (alarm.severity === 'critical' ? 0 : 1);

/** @param {Alarm} alarm */
const words = (alarm) => (!alarm.vm_name || alarm.message.includes(alarm.vm_name) ? alarm.message : `${alarm.vm_name}: ${alarm.message}`);

/** Active ones, the gravest and then the oldest first. @param {Record<string, any>|null} frame @returns {Alarm[]} */
export function activeAlarms(frame) {
  return (frame?.alarms ?? []).filter((/** @type {Alarm} */ alarm) => alarm.active).sort((/** @type {Alarm} */ a, /** @type {Alarm} */ b) => worst(a) - worst(b) || a.since_ns - b.since_ns);
}

/** What stands on the line while all is well: the oldest fault that is open. @param {Record<string, any>|null} frame @param {boolean} known whether data come */
export function quietWords(frame, known) {
  if (!frame || !known) return frame ? 'Alarms are not known: no data come.' : '';
  const none = frame.source?.kind === 'replay' ? 'No alarm in the replay.' : 'No alarm.';
  const [oldest] = openFaults(frame);
  if (!oldest) return `${none} No fault is open.`;
  const vm = frame.vm === 'all' ? `${oldest.vm_name} ` : '';
  return `${none} Oldest open fault: ${vm}vCPU ${oldest.vcpu}, ${duration(oldest.age_ns)}.`;
}

/** The list of VMs has its own column for them. @param {Record<string, any>} frame @param {string} vm */
export function alarmsOf(frame, vm) {
  const mine = activeAlarms(frame).filter((alarm) => alarm.vm === vm);
  return { count: mine.length, severity: mine[0]?.severity ?? '', text: mine.length ? `${mark(mine[0].severity)} ${mine.length} ${mine.length === 1 ? 'alarm' : 'alarms'}` : '', title: mine.map((alarm) => alarm.message).join('\n') };
}

export class AlarmStrip {
  constructor() {
    startPanel(byId('alarm-button'), byId('alarm-panel'));
    byId('alarm-more').addEventListener('click', () => byId('alarm-button').click());
    this.said = new Set();
    this.listed = '';
  }

  /** @param {Record<string, any>|null} frame @param {number} clockMs @param {boolean} known whether data come: else nobody knows that all is well */
  show(frame, clockMs, known) {
    const active = activeAlarms(frame);
    const button = byId('alarm-button');
    setAttribute(button, 'data-severity', active[0]?.severity ?? 'none');
    setText(button, active.length ? `${mark(active[0].severity)} ${count(active.length)} ${active.length === 1 ? 'alarm' : 'alarms'}` : known ? '0 alarms' : `${NONE} alarms`);
    this.#title(active.length, frame?.source?.kind === 'replay');
    this.#line(active);
    setText(byId('alarm-quiet'), active.length ? '' : quietWords(frame, known));
    this.#announce(active);
    if (!byId('alarm-panel').hidden) this.#panel(frame, active, clockMs, known);
  }

  /** @param {number} number @param {boolean} replayed */
  #title(number, replayed) {
    const name = replayed ? `Replay · ${TITLE}` : TITLE;
    const title = number ? `(${number}) ${name}` : name;
    if (document.title !== title) document.title = title;
  }

  /** @param {Alarm[]} active */
  #line(active) {
    const list = byId('alarm-list');
    const shown = active.slice(0, MOST);
    while (list.children.length > shown.length) list.lastElementChild?.remove();
    while (list.children.length < shown.length) list.append(make('li', '', make('i'), make('b'), make('span')));
    shown.forEach((alarm, index) => {
      const item = /** @type {HTMLElement} */ (list.children[index]);
      const [icon, severity, text] = [...item.children];
      setAttribute(item, 'class', `alarm ${alarm.severity}`);
      setText(icon, mark(alarm.severity));
      setText(severity, alarm.severity);
      setText(text, words(alarm));
      const title = `${words(alarm)}\n${alarm.hint}`;
      if (item.title !== title) item.title = title;
    });
    const more = byId('alarm-more');
    more.hidden = active.length <= MOST;
    setText(more, `+${active.length - MOST} more`);
  }

  /** Read out when one comes or goes, not whenever its number changes. @param {Alarm[]} active */
  #announce(active) {
    const now = new Set(active.map((alarm) => alarm.id));
    const fresh = active.filter((alarm) => !this.said.has(alarm.id));
    const over = [...this.said].filter((id) => !now.has(id));
    if (fresh.length) setText(byId('alarm-said'), fresh.map((alarm) => `Alarm, ${alarm.severity}: ${words(alarm)}`).join(' '));
    else if (over.length) setText(byId('alarm-said'), now.size ? `${now.size} alarms left` : 'No alarm any more');
    this.said = now;
  }

  /** @param {Record<string, any>|null} frame @param {Alarm[]} active @param {number} clockMs @param {boolean} known */
  #panel(frame, active, clockMs, known) {
    const ended = (frame?.alarms ?? []).filter((/** @type {Alarm} */ alarm) => !alarm.active).sort((/** @type {any} */ a, /** @type {any} */ b) => b.ended_ns - a.ended_ns);
    const time = frame?.time_ns ?? 0;
    const key = JSON.stringify([active, ended, known, Math.floor(time / 1e9)]);
    if (key === this.listed) return;
    this.listed = key;
    const wall = (/** @type {number} */ ns) => clock(ns / 1e6 + clockMs);
    setText(byId('alarm-intro'), active.length ? `${count(active.length)} active${ended.length ? `, ${count(ended.length)} ended in the last ten minutes` : ''}.` : !known ? 'Not known: no data come.' : `No alarm is active${ended.length ? '' : ', and none was in the last ten minutes'}.`);
    byId('alarm-all').replaceChildren(...[...active, ...ended].map((alarm) => make('li', `${alarm.severity} ${alarm.active ? '' : 'ended'}`,
      make('b', 'figure', `${mark(alarm.severity)} ${alarm.severity}`),
      make('div', '', make('strong', '', alarm.message), make('p', '', `${alarm.vm_name ? `${alarm.vm_name} · ` : ''}${alarm.active ? `for ${age(time - alarm.since_ns)}, since ${wall(alarm.since_ns)}` : `from ${wall(alarm.since_ns)} to ${wall(alarm.ended_ns)}`}`), ...(alarm.active ? [make('p', 'remedy', alarm.hint)] : [])))));
  }
}
