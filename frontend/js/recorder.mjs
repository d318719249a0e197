// @ts-check
/** The Record button, its small form, and the chip that says what is being recorded. */
import { ApiFailure, get, lineOf, post } from './api.mjs';
import { byId, make, setAttribute, setText } from './dom.mjs';
import { bytes, compact, position } from './format.mjs';

/** How often the list is asked for, ms: while something is recorded, and else. */
const BUSY_MS = 1000;
const IDLE_MS = 5000;
/** A name may be as long as this. */
const MOST_NAME = 80;

/**
 * A row of GET /api/v1/recordings.
 * @typedef {object} Recording
 * @property {string} id @property {string} name @property {'recording'|'finished'|'failed'} state
 * @property {number} started_wall_ms @property {number} duration_ns @property {number} records @property {number} bytes
 * @property {(string|{name: string})[]} vms @property {string} [note] @property {number} [migrations]
 */

/** Where the summary of a recording is. @param {string} id */
export const summaryUrl = (id) => `./?${new URLSearchParams({ recording: id })}`;

export class Recorder {
  /**
   * @param {{onList?: (recordings: Recording[], limits: Record<string, any>) => void, reachable?: () => boolean}} [options]
   *   `onList` gets every list and what limits it; `reachable` says whether asking makes sense now
   */
  constructor({ onList = () => {}, reachable = () => true } = {}) {
    this.onList = onList;
    this.reachable = reachable;
    /** @type {Recording|null} */
    this.running = null;
    this.seenMs = 0;
    /** What the form's list of VMs was made of. */
    this.offered = '';
    this.timer = 0;
    this.#startForm();
    document.addEventListener('visibilitychange', () => this.refresh());
    setInterval(() => this.#showRunning(), 250);
    this.refresh();
  }

  /** Asks for the list now, and goes on asking. */
  async refresh() {
    clearTimeout(this.timer);
    if (!document.hidden && this.reachable()) {
      try {
        const { recordings = [], limits = {} } = await get('recordings');
        this.#take(recordings);
        this.onList(recordings, limits);
      } catch (error) {
        if (error instanceof ApiFailure && error.status !== 0) this.#say('bad', lineOf(error), null);
      }
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), this.running ? BUSY_MS : IDLE_MS);
  }

  /** The VMs that a recording may be of. @param {{id: string, name: string, state: string}[]} vms @param {string} chosen */
  offer(vms, chosen) {
    const select = /** @type {HTMLSelectElement} */ (byId('record-vm'));
    const entries = [['', 'All VMs'], ...vms.filter((vm) => vm.state !== 'gone').map((vm) => [vm.id, vm.name])];
    const key = JSON.stringify([entries, chosen]);
    if (key === this.offered) return;
    this.offered = key;
    select.replaceChildren(...entries.map(([id, name]) => new Option(name, id, false, id === chosen)));
  }

  /** @param {Recording[]} list */
  #take(list) {
    const running = list.filter((one) => one.state === 'recording').sort((a, b) => b.started_wall_ms - a.started_wall_ms)[0] ?? null;
    const before = this.running;
    this.running = running;
    this.seenMs = performance.now();
    if (before && before.id !== running?.id) this.#told(list.find((one) => one.id === before.id));
    if (running && before?.id !== running.id) this.#announce(`Recording ${running.name}`);
    setText(byId('recordings-count'), list.length ? String(list.length) : '');
    this.#showRunning();
  }

  /** What became of the recording that ran. @param {Recording|undefined} ended */
  #told(ended) {
    if (!ended) this.#say('', '', null);
    else if (ended.state === 'failed') this.#say('bad', `Recording failed: ${ended.note || 'see the list'}`, ended);
    else this.#say('good', `Saved “${ended.name}” · ${position(ended.duration_ns)} · ${bytes(ended.bytes)} · open`, ended);
    this.#announce(byId('record-chip').textContent ?? '');
  }

  #showRunning() {
    const { running } = this;
    const button = byId('record');
    setAttribute(button, 'data-state', running ? 'recording' : 'idle');
    setText(byId('record-label'), running ? 'Stop' : 'Record');
    if (!running) return;
    const lengthNs = running.duration_ns + (performance.now() - this.seenMs) * 1e6;
    this.#say('busy', `“${running.name}” · ${position(lengthNs)} · ${bytes(running.bytes)} · ${compact(running.records)} faults`, null);
  }

  /** @param {string} kind @param {string} text @param {Recording|null} recording  where the chip leads; null: the list */
  #say(kind, text, recording) {
    const chip = /** @type {HTMLAnchorElement} */ (byId('record-chip'));
    chip.hidden = !text;
    setAttribute(chip, 'data-kind', kind);
    setAttribute(chip, 'href', recording?.state === 'finished' ? summaryUrl(recording.id) : 'recordings.html');
    setText(chip, text);
    chip.title = text;
  }

  /** For those who do not see the chip; the chip itself changes every second. @param {string} text */
  #announce(text) {
    setText(byId('record-said'), text);
  }

  #startForm() {
    const button = byId('record');
    const form = /** @type {HTMLFormElement} */ (byId('record-panel'));
    const name = /** @type {HTMLInputElement} */ (byId('record-name'));
    name.maxLength = MOST_NAME;
    const open = (/** @type {boolean} */ is) => {
      form.hidden = !is;
      setAttribute(button, 'aria-expanded', String(is));
      setText(byId('record-error'), '');
      if (is) {
        form.style.left = `${Math.min(button.getBoundingClientRect().left, innerWidth - form.offsetWidth - 24)}px`;
        name.focus();
        name.select();
      }
    };
    button.addEventListener('click', () => (this.running ? this.#stop(this.running) : open(form.hidden)));
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      if (await this.#start(name.value.trim(), /** @type {HTMLSelectElement} */ (byId('record-vm')).value)) {
        open(false);
        name.value = '';
        button.focus();
      }
    });
    addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' || form.hidden) return;
      open(false);
      button.focus();
    });
    addEventListener('pointerdown', ({ target }) => {
      if (target instanceof Node && !form.contains(target) && !button.contains(target) && !form.hidden) open(false);
    });
  }

  /** @param {string} name @param {string} vm @returns {Promise<boolean>} whether it began */
  async #start(name, vm) {
    try {
      await post('recordings', { ...(name && { name }), ...(vm && { vm }) });
    } catch (error) {
      setText(byId('record-error'), lineOf(error));
      return false;
    }
    await this.refresh();
    return true;
  }

  /** @param {Recording} recording */
  async #stop(recording) {
    const button = /** @type {HTMLButtonElement} */ (byId('record'));
    button.disabled = true;
    try {
      await post(`recordings/${encodeURIComponent(recording.id)}/stop`);
    } catch (error) {
      this.#say('bad', lineOf(error), null);
    }
    button.disabled = false;
    button.focus();
    await this.refresh();
  }
}

/** The names of a recording's VMs in one line. @param {Recording['vms']|number|undefined} vms */
export function vmNames(vms) {
  if (!Array.isArray(vms)) return String(vms ?? '');
  return vms.map((vm) => (typeof vm === 'string' ? vm : vm.name)).join(', ');
}

/**
 * The links to a recording's files. whole: no part of it, so the recording itself, too.
 * @param {string} id @param {(format: string) => string} urlOf @param {boolean} whole
 */
export function downloads(id, urlOf, whole) {
  const formats = ['json', 'csv', 'parquet', 'arrow', 'perfetto', ...(whole ? ['recording'] : [])];
  return formats.map((format) => {
    const link = make('a', 'link', format);
    link.setAttribute('href', urlOf(format));
    link.setAttribute('download', '');
    link.setAttribute('aria-label', `Download ${id} as ${format}`);
    return link;
  });
}
