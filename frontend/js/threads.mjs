// @ts-check
/** The VMM's threads that serve faults: who they are, how busy, and how many faults each resolved. */
import { byId, make, setAttribute, setText } from './dom.mjs';
import { count, share } from './format.mjs';

/** More are not worth their room. */
const MOST = 8;
const ORDER = [/^uffd/, /^handler/, /cop/i, /vhost/i, /main/i];

/** @typedef {{tid: number, name: string, role: string, vm: string, busy: number|null, served: number|null}} Thread */

/** Readers, copiers, others; of the same role the busiest first. vCPUs have a table of their own unless they resolve faults for others. @param {Thread[]|undefined} threads @returns {Thread[]} */
export function handlersOf(threads) {
  const rank = (/** @type {Thread} */ thread) => (ORDER.findIndex((role) => role.test(thread.role ?? '')) + 1 || ORDER.length + 1);
  return (threads ?? []).filter((thread) => !/^vcpu/i.test(thread.role ?? '')).sort((a, b) => rank(a) - rank(b) || (b.served ?? 0) - (a.served ?? 0) || (b.busy ?? 0) - (a.busy ?? 0) || a.tid - b.tid);
}

/** Who served a fault: role and name of the thread. @param {Record<string, any>} frame @param {Record<string, any>} fault */
export function whoServed(frame, { handler, handler_tid: tid, tid: vcpuTid }) {
  if (!tid) return { text: '–', title: '' };
  const thread = tid === vcpuTid ? null : handler ?? (frame.threads ?? []).find((/** @type {Thread} */ each) => each.tid === tid);
  if (thread) return { text: thread.role && thread.role !== thread.name ? `${thread.role} · ${thread.name}` : thread.name, title: `${thread.name}, ${thread.role}, thread ${tid}` };
  const vcpu = (frame.vcpus ?? []).find((/** @type {any} */ each) => each.tid === tid);
  if (tid === vcpuTid) return { text: 'the vCPU itself', title: `thread ${tid}${vcpu ? `, ${vcpu.name}` : ''}` };
  return vcpu ? { text: `vCPU ${vcpu.vcpu}`, title: `${vcpu.name}, thread ${tid}` } : { text: `thread ${tid}`, title: '' };
}

export class ThreadTable {
  constructor() {
    this.body = /** @type {HTMLTableElement} */ (byId('threads').querySelector('table')).createTBody();
  }

  /** @param {Record<string, any>} frame */
  show(frame) {
    const all = handlersOf(frame.threads);
    const shown = all.slice(0, MOST);
    byId('threads').hidden = shown.length === 0;
    while (this.body.rows.length > shown.length) this.body.deleteRow(-1);
    while (this.body.rows.length < shown.length) {
      this.body.append(make('tr', '', make('td', 'role'), make('td', 'name'), make('td', 'bar-cell', make('span', 'meter', make('i'), make('b'))), make('td', 'number')));
    }
    shown.forEach((thread, index) => {
      const [role, name, bar, served] = /** @type {HTMLElement[]} */ ([...this.body.rows[index].cells]);
      setText(role, thread.role || '–');
      setText(name, thread.name || String(thread.tid));
      setAttribute(name, 'title', `thread ${thread.tid}`);
      const [fill, text] = /** @type {HTMLElement[]} */ ([.../** @type {Element} */ (bar.firstElementChild).children]);
      const width = `${(Math.min(Math.max(thread.busy ?? 0, 0), 1) * 100).toFixed(1)}%`;
      if (fill.style.width !== width) fill.style.width = width;
      fill.classList.toggle('high', (thread.busy ?? 0) > 0.85);
      setText(text, share(thread.busy));
      setText(served, thread.served === null || thread.served === undefined ? '·' : count(thread.served));
    });
    setText(byId('threads-more'), all.length > shown.length ? `and ${count(all.length - shown.length)} more threads` : '');
  }
}
