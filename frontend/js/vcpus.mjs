// @ts-check
/** The table of vCPUs. */
import { byId, make, setText } from './dom.mjs';
import { compact, count, duration, rate, share, vcpuCount } from './format.mjs';
import { uncountedVms } from './gaps.mjs';
import { openFaults } from './open.mjs';
import { Table, textColumn } from './table.mjs';
import { MODE_MEANING, MODES } from './words.mjs';

/** A bar with its figure. @param {HTMLElement} cell @param {number|null|undefined} fraction */
function drawBar(cell, fraction) {
  const bar = /** @type {HTMLElement} */ (cell.firstElementChild ?? cell.appendChild(make('span', 'meter', make('i'), make('b'))));
  const [fill, text] = /** @type {HTMLElement[]} */ ([...bar.children]);
  const width = `${Math.min(100, Math.max(0, (fraction ?? 0) * 100)).toFixed(1)}%`;
  if (fill.style.width !== width) fill.style.width = width;
  fill.classList.toggle('high', (fraction ?? 0) > 0.5);
  setText(text, share(fraction));
}

/** A number of a vCPU, null where its VM is not counted. @param {any} row @param {number|null} value */
const known = (row, value) => (row.uncounted ? null : value);

/** A vCPU of one VM among all. @param {{vm?: string, vcpu: number}} row */
const keyOf = (row) => `${row.vm ?? ''}/${row.vcpu}`;

const latency = (/** @type {string} */ name) => textColumn(name, name, (row) => (row.latency_ns?.count ? row.latency_ns[name] : null), duration,
  { title: `${name === 'max' ? 'Longest' : name} whole latency over the window` });

export class VcpuTable {
  constructor() {
    this.nowNs = 0;
    this.place = new Map();
    this.table = new Table(byId('vcpu-table'), [
      textColumn('vcpu', 'vCPU', (row) => this.place.get(keyOf(row)) ?? 0, String, { draw: (cell, row) => setText(cell, String(row.vcpu)) }),
      textColumn('vm', 'VM', (row) => row.vm_name ?? '', String, { className: 'text vm', draw: (cell, row) => { setText(cell, row.vm_name ?? row.vm ?? ''); cell.title = cell.textContent ?? ''; } }),
      textColumn('name', 'Thread', (row) => row.name ?? '', (name) => name, {
        className: 'text', title: 'Thread name and id',
        draw: (cell, row) => { setText(cell, row.name ? `${row.name} · ${row.tid}` : String(row.tid ?? '–')); cell.title = cell.textContent ?? ''; },
      }),
      ...MODES.map((mode) => textColumn(`faults_${mode}`, mode, (row) => known(row, row.faults?.[mode] ?? 0), (value) => (value === 0 ? '·' : value < 1e6 ? count(value) : compact(value)),
        { className: `number mode mode-${mode}`, title: `Faults since the VM was first seen, ${mode}: ${MODE_MEANING[mode]}` })),
      textColumn('rate', 'rate', (row) => known(row, row.rate_per_s ?? 0), rate, { title: 'Faults per second over the window' }),
      ...['p50', 'p90', 'p99', 'max'].map(latency),
      { key: 'stall', label: 'stalled', title: 'Share of wall time inside faults, over the window', className: 'bar-cell', value: (row) => known(row, row.stall ?? 0), draw: (cell, row) => drawBar(cell, known(row, row.stall)) },
      textColumn('open', 'in a fault for', (row) => row.open_since_ns || null, (since) => (since ? duration(Math.max(0, this.nowNs - since)) : ''),
        { title: 'Stands in a fault right now', className: 'number open' }),
    ], { sort: 'vcpu', key: keyOf });
  }

  /** @param {Record<string, any>} frame */
  show(frame) {
    this.nowNs = frame.time_ns;
    const uncounted = uncountedVms(frame);
    const vcpus = uncounted.size ? (frame.vcpus ?? []).map((/** @type {any} */ row) => (uncounted.has(row.vm) ? { ...row, uncounted: true } : row)) : frame.vcpus ?? [];
    this.place = new Map(vcpus.map((/** @type {any} */ row, /** @type {number} */ index) => [keyOf(row), index]));
    const open = frame.at_rest ? '' : `, ${count(openFaults(frame).length)} in a fault now`;
    setText(byId('vcpu-count'), `${vcpuCount(vcpus.length)}${open}`);
    this.table.show(vcpus);
  }
}
