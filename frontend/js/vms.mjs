// @ts-check
/** The list of VMs, under the charts of all of them together. */
import { byId, setText } from './dom.mjs';
import { compact, count, duration, rate } from './format.mjs';
import { alarmsOf } from './alarms.mjs';
import { gapOf } from './gaps.mjs';
import { LONG_NS, openFaults } from './open.mjs';
import { migrationOf } from './progress.mjs';
import { Table, textColumn } from './table.mjs';
import { MODES } from './words.mjs';

/** A number of a VM, null where its faults are not counted. @param {any} row @param {number|null} value */
const known = (row, value) => (gapOf(row)?.counted === false ? null : value);

export class VmTable {
  /** @param {(vm: string) => void} onVm */
  constructor(onVm) {
    /** @type {Record<string, any>} */
    this.frame = {};
    this.table = new Table(byId('vm-table'), [
      {
        key: 'name', label: 'VM', className: 'text', value: (row) => row.name ?? '',
        draw: (cell, row) => {
          const link = /** @type {HTMLButtonElement} */ (cell.firstElementChild ?? cell.appendChild(document.createElement('button')));
          link.type = 'button';
          link.className = 'link';
          setText(link, row.name ?? row.id);
        },
      },
      {
        key: 'state', label: 'state', className: 'text state', value: (row) => gapOf(row)?.state ?? row.state ?? '',
        draw: (cell, row) => {
          const gap = gapOf(row);
          setText(cell, gap?.state ?? row.state ?? '');
          cell.classList.toggle('gap', Boolean(gap));
          if (cell.title !== (gap?.why ?? '')) cell.title = gap?.why ?? '';
        },
      },
      {
        key: 'alarms', label: 'alarms', className: 'text alarms', title: 'Active alarms', value: (row) => alarmsOf(this.frame, row.id).count,
        draw: (cell, row) => {
          const { text, title, severity } = alarmsOf(this.frame, row.id);
          setText(cell, text);
          cell.classList.toggle('critical', severity === 'critical');
          if (cell.title !== title) cell.title = title;
        },
      },
      textColumn('migration', 'migration', (row) => migrationOf(this.frame, row.id), String, { className: 'text migrating' }),
      textColumn('vmm', 'VMM', (row) => row.vmm ?? '', String, { className: 'text' }),
      textColumn('pid', 'pid', (row) => row.pid ?? null, String),
      textColumn('vcpus', 'vCPUs', (row) => known(row, row.vcpus || (gapOf(row) ? null : 0)), count),
      textColumn('open', 'in a fault for', (row) => openFaults(this.frame).find((fault) => fault.vm === row.id)?.age_ns ?? null, (ns) => (ns >= LONG_NS ? duration(ns) : ''),
        { title: 'How long the vCPU that has stood longest in a fault is in it now', className: 'number open' }),
      textColumn('rate', 'rate', (row) => known(row, row.rate_per_s ?? 0), rate, { title: 'Faults per second over the window' }),
      ...MODES.map((mode) => textColumn(`faults_${mode}`, mode, (row) => known(row, row.faults?.[mode] ?? 0), (value) => (value === 0 ? '·' : compact(value)),
        { className: `number mode mode-${mode}`, title: `Faults since the VM was first seen, ${mode}` })),
    ], { sort: 'name', key: (row) => row.id, onRow: (row) => onVm(row.id) });
  }

  /** @param {Record<string, any>[]} vms @param {Record<string, any>} frame */
  show(vms, frame) {
    this.frame = frame;
    setText(byId('vms-count'), `${count(vms.length)} seen, ${count(vms.filter((vm) => vm.state === 'gone').length)} of them gone`);
    this.table.show(vms);
  }
}
