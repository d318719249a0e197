// @ts-check
/** The bar that plays a recording: play and pause, seek, speed, back to live. The server plays; this only asks. */
import { get, lineOf, post, remove } from './api.mjs';
import { byId, make, setAttribute, setText } from './dom.mjs';
import { clock, count, moment, place } from './format.mjs';
import { isSpace } from './keys.mjs';
import { summaryUrl } from './recorder.mjs';
import { drawStrip, overviewOf } from './timeline.mjs';

const SPEEDS = [0.25, 0.5, 1, 2, 4, 8, 16];
const ASK_MS = 500;
const SEEK_MS = 150;
/** Steps of the seek bar. */
const STEPS = 1000;

/**
 * GET /api/v1/replay.
 * @typedef {{id: string|null, at_ns: number, from_ns: number, to_ns: number, speed: number, paused: boolean, host_alarms?: number, error?: string|null}} Playing
 */

export class Replay {
  /** @param {(playing: Playing|null) => void} onChange  called when a replay begins, ends, pauses or goes on */
  constructor(onChange) {
    this.onChange = onChange;
    /** @type {Playing|null} */
    this.playing = null;
    this.seenMs = 0;
    this.held = false;
    this.busy = 0;
    this.timer = 0;
    this.wanted = false;
    /** Why it does not do what was asked, for the line under the header. */
    this.trouble = '';
    /** The recording whose marks are on the bar, and what it is called. */
    this.about = { id: '', name: '', wallMs: 0, startedNs: 0 };
    this.#build();
    setInterval(() => this.#tick(), 100);
  }

  /** What the newest frame says of its source: a replay there may be one of ours. @param {string|undefined} kind */
  hear(kind) {
    const wanted = kind === 'replay';
    if (wanted === this.wanted) return;
    this.wanted = wanted;
    if (wanted) {
      this.trouble = '';
      this.#ask();
    } else this.#over();
  }

  /** No replay any more: one that ended by itself says why. */
  async #over() {
    this.#take(null);
    try {
      const { error } = await get('replay');
      if (error) this.trouble = error;
    } catch { /* the badge tells if the server has gone */ }
  }

  async #ask() {
    clearTimeout(this.timer);
    if (!this.wanted) return;
    const asked = this.busy;
    try {
      const answer = await get('replay');
      // An answer that was under way while the reader changed something is old.
      if (asked === this.busy && this.wanted) this.#take(answer?.id ? answer : null);
    } catch { /* the next one may do better; the badge tells if the server has gone */ }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#ask(), ASK_MS);
  }

  /** @param {Partial<Playing>} change */
  async #change(change) {
    if (!this.playing) return;
    this.busy += 1;
    this.#take({ ...this.playing, at_ns: this.#now(), ...change }); // at once; the answer corrects it
    const asked = this.busy;
    try {
      const answer = await post('replay', { id: this.playing.id, ...change });
      this.trouble = '';
      if (asked === this.busy && answer?.id) this.#take(answer);
    } catch (error) {
      this.trouble = lineOf(error);
    }
  }

  /** @param {Playing|null} playing */
  #take(playing) {
    const before = this.playing;
    this.playing = playing;
    this.seenMs = performance.now();
    byId('replay-bar').hidden = !playing;
    if (playing) this.#show(playing);
    if (playing?.id !== before?.id || playing?.paused !== before?.paused) this.onChange(playing);
  }

  /** @param {Playing} playing */
  #show(playing) {
    const button = byId('replay-play');
    setAttribute(button, 'data-paused', String(playing.paused));
    setAttribute(button, 'aria-label', playing.paused ? 'Play' : 'Pause the replay');
    setText(byId('replay-length'), place(playing.to_ns - playing.from_ns, playing.to_ns - playing.from_ns));
    const hidden = playing.host_alarms ?? 0;
    setText(byId('replay-alarms'), hidden ? `◆ ${count(hidden)} ${hidden === 1 ? 'alarm' : 'alarms'} on this host now` : '');
    setAttribute(byId('replay-summary'), 'href', summaryUrl(String(playing.id)));
    for (const radio of /** @type {NodeListOf<HTMLInputElement>} */ (byId('replay-speed').querySelectorAll('input'))) radio.checked = Number(radio.value) === playing.speed;
    if (this.about.id !== playing.id) this.#overview(String(playing.id));
    this.#tick();
  }

  /** @param {string} id */
  async #overview(id) {
    this.about = { id, name: id, wallMs: 0, startedNs: 0 };
    const box = /** @type {HTMLElement} */ (byId('replay-timeline').firstElementChild);
    box.replaceChildren();
    try {
      const path = `recordings/${encodeURIComponent(id)}`;
      const meta = await get(path);
      if (this.about.id !== id) return;
      this.about = { id, name: meta.name || id, wallMs: meta.started_wall_ms, startedNs: meta.started_ns };
      this.onChange(this.playing);
      const summary = await get(`${path}/summary`);
      if (this.about.id === id) drawStrip(box, overviewOf(summary));
    } catch { /* the bar seeks without marks, too */ }
  }

  /** Wall clock less CLOCK_MONOTONIC while the recording was made, ms; null while it is live. */
  get clockMs() {
    return this.playing && this.about.wallMs ? this.about.wallMs - this.about.startedNs / 1e6 : null;
  }

  /** The sentence that says plainly what is on the page; empty while it is live. */
  get sentence() {
    if (!this.playing) return '';
    const when = this.about.wallMs ? ` of ${moment(this.about.wallMs)}` : '';
    return `A replay of “${this.about.name}”${when}${this.playing.paused ? ', paused' : ''}: not this host now.`;
  }

  /** Where it is now, between two answers of the server. */
  #now() {
    const { playing } = this;
    if (!playing) return 0;
    const gone = playing.paused ? 0 : (performance.now() - this.seenMs) * 1e6 * playing.speed;
    return Math.min(playing.at_ns + gone, playing.to_ns);
  }

  #tick() {
    const { playing } = this;
    if (!playing) return;
    const seek = /** @type {HTMLInputElement} */ (byId('replay-seek'));
    const lengthNs = Math.max(playing.to_ns - playing.from_ns, 1);
    const atNs = this.held ? playing.from_ns + (Number(seek.value) / STEPS) * lengthNs : this.#now();
    if (!this.held) seek.value = String(Math.round(((atNs - playing.from_ns) / lengthNs) * STEPS));
    seek.style.setProperty('--at', `${((atNs - playing.from_ns) / lengthNs) * 100}%`);
    setText(byId('replay-at'), place(atNs - playing.from_ns, lengthNs));
    const wall = this.about.wallMs ? `, ${clock(this.about.wallMs + (atNs - playing.from_ns) / 1e6)}` : '';
    setAttribute(seek, 'aria-valuetext', `${place(atNs - playing.from_ns, lengthNs)} of ${place(lengthNs, lengthNs)}${wall}`);
  }

  #build() {
    byId('replay-speed').append(...SPEEDS.map((speed) => {
      const radio = /** @type {HTMLInputElement} */ (make('input'));
      Object.assign(radio, { type: 'radio', name: 'replay-speed', value: String(speed) });
      radio.addEventListener('change', () => this.#change({ speed }));
      return make('label', '', radio, make('span', '', `${speed}×`));
    }));
    const toggle = () => {
      const { playing } = this;
      if (!playing) return;
      const ended = this.#now() >= playing.to_ns;
      this.#change(playing.paused ? { paused: false, ...(ended && { at_ns: playing.from_ns }) } : { paused: true });
    };
    byId('replay-play').addEventListener('click', toggle);
    addEventListener('keydown', (event) => {
      if (!this.playing || !isSpace(event)) return;
      event.preventDefault();
      toggle();
    });
    const seek = /** @type {HTMLInputElement} */ (byId('replay-seek'));
    Object.assign(seek, { min: '0', max: String(STEPS), step: '1' });
    let sending = 0;
    seek.addEventListener('input', () => {
      this.held = true;
      clearTimeout(sending);
    });
    // An arrow key that is held down changes it thirty times a second: only where it comes to rest is asked for.
    seek.addEventListener('change', () => {
      clearTimeout(sending);
      sending = setTimeout(() => {
        this.held = false;
        const { playing } = this;
        if (playing) this.#change({ at_ns: Math.round(playing.from_ns + (Number(seek.value) / STEPS) * (playing.to_ns - playing.from_ns)) });
      }, SEEK_MS);
    });
    byId('replay-back').addEventListener('click', async () => {
      this.busy += 1;
      try {
        await remove('replay');
        const still = await get('replay');
        this.#take(still?.id ? still : null);
        byId('replay-back').hidden = Boolean(still?.id); // a server that only plays has nothing to go back to
      } catch (error) {
        this.trouble = lineOf(error);
      }
    });
  }
}
