// @ts-check
/** The strip on which a part of a recording is chosen: two ends that move by keyboard, and a drag across. */
import { byId, setAttribute, setText } from './dom.mjs';
import { place } from './format.mjs';

const STEPS = 1000;
/** A part is at least this many steps long. */
const LEAST = 2;
/** The charts follow when the ends have come to rest, ms. */
const REST_MS = 250;

export class Range {
  /** @param {(fromShare: number, toShare: number) => void} onChange gets shares of the recording, 0 to 1 */
  constructor(onChange) {
    this.onChange = onChange;
    this.lengthNs = 0;
    /** Shares of the recording: finer than the steps of the strip, if the address said so. */
    this.ends = [0, 1];
    this.low = /** @type {HTMLInputElement} */ (byId('range-low'));
    this.high = /** @type {HTMLInputElement} */ (byId('range-high'));
    for (const input of [this.low, this.high]) Object.assign(input, { min: '0', max: String(STEPS), step: '1' });
    this.timer = 0;
    this.low.addEventListener('input', () => this.#moved(Math.min(Number(this.low.value), Number(this.high.value) - LEAST), Number(this.high.value)));
    this.high.addEventListener('input', () => this.#moved(Number(this.low.value), Math.max(Number(this.high.value), Number(this.low.value) + LEAST)));
    this.#startDrag();
    this.set(0, 1);
  }

  /** @param {number} lengthNs */
  setLength(lengthNs) {
    this.lengthNs = lengthNs;
    this.#show();
  }

  /** Sets the ends without calling back. @param {number} from @param {number} to shares, 0 to 1 */
  set(from, to) {
    this.ends = [from, to];
    this.low.value = String(Math.round(from * STEPS));
    this.high.value = String(Math.round(to * STEPS));
    this.#show();
  }

  /** @param {number} low @param {number} high */
  #moved(low, high) {
    this.low.value = String(Math.max(low, 0));
    this.high.value = String(Math.min(high, STEPS));
    this.ends = [Number(this.low.value) / STEPS, Number(this.high.value) / STEPS];
    this.#show();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.onChange(this.ends[0], this.ends[1]), REST_MS);
  }

  #show() {
    const [low, high] = this.ends;
    const box = byId('range-timeline');
    box.style.setProperty('--low', String(low));
    box.style.setProperty('--high', String(high));
    setText(byId('range-from'), place(low * this.lengthNs, this.lengthNs));
    setText(byId('range-to'), place(high * this.lengthNs, this.lengthNs));
    setAttribute(this.low, 'aria-valuetext', place(low * this.lengthNs, this.lengthNs));
    setAttribute(this.high, 'aria-valuetext', place(high * this.lengthNs, this.lengthNs));
  }

  #startDrag() {
    const plot = /** @type {HTMLElement} */ (byId('range-timeline').firstElementChild);
    let begun = -1;
    const at = (/** @type {PointerEvent} */ event) => {
      const { left, width } = plot.getBoundingClientRect();
      return Math.round(Math.min(Math.max((event.clientX - left) / width, 0), 1) * STEPS);
    };
    plot.addEventListener('pointerdown', (event) => {
      if (event.button !== 0) return;
      begun = at(event);
      plot.setPointerCapture(event.pointerId);
    });
    plot.addEventListener('pointermove', (event) => {
      const now = at(event);
      if (begun >= 0 && Math.abs(now - begun) >= LEAST) this.#moved(Math.min(begun, now), Math.max(begun, now));
    });
    for (const name of /** @type {const} */ (['pointerup', 'pointercancel'])) plot.addEventListener(name, () => { begun = -1; });
  }
}
