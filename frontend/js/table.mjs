// @ts-check
/** A table that sorts by its header buttons and keeps only the rows in sight in the document. */
import { latch, make, setAttribute, setText } from './dom.mjs';

/** Height of a row in the style sheet, px. */
const ROW_PX = 28;
/** Rows kept above and below what is in sight. */
const SPARE = 4;
/** A sorted live table is put in new order only this often: rows that hop cannot be read. */
const RESORT_MS = 1000;

/**
 * @typedef {object} Column
 * @property {string} key @property {string} label @property {string} [title]
 * @property {(row: any) => number|string|null} value  for sorting
 * @property {(cell: HTMLElement, row: any) => void} draw
 * @property {string} [className]
 */
export class Table {
  /**
   * @param {HTMLElement} frame  scrolls; holds a table with caption
   * @param {Column[]} columns
   * @param {{sort: string, descending?: boolean, key: (row: any) => unknown, onRow?: (row: any) => void}} options
   */
  constructor(frame, columns, options) {
    this.frame = frame;
    this.columns = columns;
    this.options = options;
    this.sort = { key: options.sort, descending: options.descending ?? false };
    this.rows = /** @type {any[]} */ ([]);
    this.order = new Map();
    this.sortedMs = -Infinity;
    this.table = /** @type {HTMLTableElement} */ (frame.querySelector('table'));
    this.body = this.table.createTBody();
    this.above = make('tr', 'pad', make('td'));
    this.below = make('tr', 'pad', make('td'));
    for (const pad of [this.above, this.below]) setAttribute(pad, 'aria-hidden', 'true');
    this.body.append(this.above, this.below);
    /** @type {HTMLTableRowElement[]} */
    this.pool = [];
    this.#head();
    const draw = latch(() => this.#draw());
    frame.addEventListener('scroll', draw, { passive: true });
    new ResizeObserver(draw).observe(frame);
  }

  /** @param {any[]} rows */
  show(rows) {
    const now = performance.now();
    const changed = rows.length !== this.rows.length;
    this.rows = rows;
    const held = this.frame.matches(':hover') && this.sort.key !== this.options.sort;
    if (changed || (now - this.sortedMs >= RESORT_MS && !held)) this.#sort();
    else this.#keepOrder();
    this.#draw();
  }

  #head() {
    const row = this.table.createTHead().insertRow();
    for (const column of this.columns) {
      const button = make('button', '', column.label);
      setAttribute(button, 'type', 'button');
      if (column.title) button.title = column.title;
      button.addEventListener('click', () => this.#sortBy(column.key));
      const cell = make('th', column.className ?? '', button);
      setAttribute(cell, 'scope', 'col');
      row.append(cell);
    }
    this.#mark();
  }

  /** @param {string} key */
  #sortBy(key) {
    const same = this.sort.key === key;
    this.sort = { key, descending: same ? !this.sort.descending : key !== this.options.sort };
    this.#mark();
    this.#sort();
    this.frame.scrollTop = 0;
    this.#draw();
  }

  #mark() {
    const heads = this.table.tHead?.rows[0].cells ?? [];
    this.columns.forEach((column, index) => {
      const state = column.key !== this.sort.key ? 'none' : this.sort.descending ? 'descending' : 'ascending';
      setAttribute(heads[index], 'aria-sort', state);
    });
  }

  #sort() {
    const { value } = /** @type {Column} */ (this.columns.find((column) => column.key === this.sort.key));
    const sign = this.sort.descending ? -1 : 1;
    this.rows = [...this.rows].sort((a, b) => {
      const [left, right] = [value(a), value(b)];
      if (left === right) return 0;
      if (left === null) return 1; // nothing measured comes last, whichever way
      if (right === null) return -1;
      return left < right ? -sign : sign;
    });
    this.order = new Map(this.rows.map((row, index) => [this.options.key(row), index]));
    this.sortedMs = performance.now();
  }

  #keepOrder() {
    const place = (/** @type {any} */ row) => this.order.get(this.options.key(row)) ?? Infinity;
    this.rows = [...this.rows].sort((a, b) => place(a) - place(b));
  }

  #draw() {
    const first = Math.max(0, Math.floor(this.frame.scrollTop / ROW_PX) - SPARE);
    const last = Math.min(this.rows.length, first + Math.ceil(this.frame.clientHeight / ROW_PX) + 2 * SPARE);
    const height = (/** @type {HTMLElement} */ pad, /** @type {number} */ rows) => { pad.style.height = `${rows * ROW_PX}px`; };
    height(this.above, first);
    height(this.below, this.rows.length - last);
    setAttribute(this.table, 'aria-rowcount', String(this.rows.length + 1));
    while (this.pool.length < last - first) this.#grow();
    while (this.pool.length > last - first) this.pool.pop()?.remove();
    this.pool.forEach((element, index) => this.#fill(element, first + index));
  }

  #grow() {
    const row = document.createElement('tr');
    for (const column of this.columns) row.append(make('td', column.className ?? ''));
    row.addEventListener('click', () => this.options.onRow?.(this.rows[Number(row.dataset.index)]));
    this.pool.push(row);
    this.below.before(row);
  }

  /** @param {HTMLTableRowElement} element @param {number} index */
  #fill(element, index) {
    const row = this.rows[index];
    element.dataset.index = String(index);
    setAttribute(element, 'aria-rowindex', String(index + 2));
    this.columns.forEach((column, cell) => column.draw(element.cells[cell], row));
  }
}

/** A column of text. @param {string} key @param {string} label @param {(row: any) => number|string|null} value @param {(value: any) => string} format @param {Partial<Column>} [more] @returns {Column} */
export function textColumn(key, label, value, format, more = {}) {
  return { key, label, value, draw: (cell, row) => setText(cell, format(value(row))), className: 'number', ...more };
}
