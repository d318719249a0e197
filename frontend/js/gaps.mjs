// @ts-check
/** VMs of which not everything is known: what the page says in place of numbers that would be wrong. Pure. */

/** @typedef {{state: string, why: string, counted: boolean}} Gap  `counted`: whether its faults are */

/** What is missing of a VM; null if nothing is. @param {Record<string, any>|undefined} vm an entry of the frame's VMs @returns {Gap|null} */
export function gapOf(vm) {
  if (!vm || vm.state === 'gone') return null;
  const left = vm.not_counted ?? 0;
  const room = 'found no room with the collector, or in the share of one user, and are in no number';
  if (left && left >= (vm.vcpus ?? 0)) return { state: 'not counted', counted: false, why: `${left === 1 ? 'Its vCPU' : `Its ${left} vCPUs`} ${room}.` };
  if (left) return { state: 'partly counted', counted: true, why: `${left} of its vCPUs ${room}.` };
  if (vm.unreadable) {
    return { state: 'not readable', counted: true, why: `Its process cannot be looked at: ${vm.unreadable}. Name, threads and queue are as before, or not known; its faults are counted.` };
  }
  return null;
}

/** Ids of the VMs whose faults are not counted. @param {Record<string, any>} frame @returns {Set<string>} */
export const uncountedVms = (frame) => new Set((frame.vms ?? []).filter((/** @type {any} */ vm) => gapOf(vm)?.counted === false).map((/** @type {any} */ vm) => vm.id));

/** The VM on show, where the page shows one alone. @param {Record<string, any>} frame */
export const shownVm = (frame) => (frame.vms ?? []).find((/** @type {any} */ vm) => vm.id === frame.vm);
