// @ts-check
/** Faults that are open: a vCPU stands still in each of them now. No record tells of them until they end. Pure. */

/** Open for longer than this, a fault leads the slowest ones; shorter ones come and go with every frame. */
export const LONG_NS = 100e6;

/** @typedef {{vm: string, vm_name: string, vcpu: number, since_ns: number, age_ns: number}} OpenFault */

/** Several places ask of the same frame. @type {WeakMap<object, OpenFault[]>} */
const found = new WeakMap();

/** Those of the vCPUs on show, the oldest first; none in a recording's summary. @param {Record<string, any>} frame @returns {OpenFault[]} */
export function openFaults(frame) {
  let faults = found.get(frame);
  if (!faults) {
    faults = (frame.vcpus ?? []).filter((/** @type {any} */ row) => row.open_since_ns > 0).map((/** @type {any} */ { vm, vm_name, vcpu, open_since_ns: since }) => ({
      vm, vm_name, vcpu, since_ns: since, age_ns: Math.max(frame.time_ns - since, 0),
    })).sort((/** @type {OpenFault} */ a, /** @type {OpenFault} */ b) => b.age_ns - a.age_ns);
    found.set(frame, faults ?? []);
  }
  return faults ?? [];
}
