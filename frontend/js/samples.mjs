// @ts-check
/** What QEMU said over time of bytes left: asked for once per migration, then gathered from the frames. */
import { get } from './api.mjs';
import { isActive } from './phases.mjs';

/** As many as the server keeps. */
const MOST = 900;
/** The other side of a migration, which is another VM of this host, is asked for this often. */
const OTHER_MS = 1000;

/** @typedef {{at_ns: number, remaining_bytes: number|null}} Sample */

export class Samples {
  constructor() {
    /** @type {Map<string, Sample[]>} */
    this.of = new Map();
    /** When each was asked for: page clock, Infinity for those that need not be asked again. @type {Map<string, number>} */
    this.asked = new Map();
    /** What was said last of the other sides. @type {Map<string, Record<string, any>>} */
    this.others = new Map();
  }

  /** @param {string|null|undefined} id of a migration that is not in the frames */
  otherOf(id) {
    return this.others.get(id ?? '') ?? null;
  }

  /** Takes what a frame says, and asks for what was before. @param {Record<string, any>[]} migrations @param {boolean} [whole] whether they bring their samples */
  hear(migrations, whole = false) {
    const ids = new Set(migrations.map(({ id }) => id));
    for (const migration of migrations) {
      const { id, other, qmp } = migration;
      if (migration.samples?.length) this.of.set(id, migration.samples);
      if (whole) continue;
      if (typeof qmp?.remaining_bytes === 'number') {
        if (!this.asked.has(id)) this.#ask(id, Infinity);
        this.#add(id, [{ at_ns: qmp.at_ns, remaining_bytes: qmp.remaining_bytes }]);
      }
      if (other && !ids.has(other)) {
        ids.add(other);
        const now = performance.now();
        if (now >= (this.asked.get(other) ?? 0)) this.#ask(other, isActive(migration) ? now + OTHER_MS : Infinity);
      }
    }
    for (const map of [this.of, this.others, this.asked]) for (const id of map.keys()) if (!ids.has(id)) map.delete(id);
  }

  /** @param {string} id @param {number} againMs when it may be asked for again, page clock */
  async #ask(id, againMs) {
    this.asked.set(id, againMs);
    try {
      const { samples = [], ...migration } = await get(`migrations/${encodeURIComponent(id)}`);
      this.#add(id, samples);
      this.others.set(id, migration);
    } catch {
      this.asked.set(id, Infinity); // the line begins when the page was opened
    }
  }

  /** @param {string} id @param {Sample[]} more */
  #add(id, more) {
    const old = this.of.get(id) ?? [];
    const last = old.at(-1)?.at_ns ?? -Infinity;
    if (more.length === 1 && more[0].at_ns === last) return;
    const known = new Set(old.map((each) => each.at_ns));
    const all = [...old, ...more.filter((each) => !known.has(each.at_ns))];
    this.of.set(id, all.sort((a, b) => a.at_ns - b.at_ns).slice(-MOST));
  }
}
