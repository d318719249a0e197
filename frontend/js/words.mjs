// @ts-check
/** What each mode, stage and counter is called and what it means, in words for people. */

/** Fault modes in the order in which the page shows them. */
export const MODES = ['uffd', 'exit', 'memory_fault', 'async', 'kernel'];

/** @type {Record<string, string>} */
export const MODE_MEANING = {
  uffd: 'the vCPU thread sleeps in userfaultfd; a handler thread reads the event and fills the page',
  exit: 'KVM_RUN returns -EFAULT; the vCPU thread fills the page itself and enters again',
  memory_fault: 'KVM_RUN returns KVM_EXIT_MEMORY_FAULT, which names the address',
  async: 'a kernel worker waits for the page; the vCPU may run on or is halted',
  kernel: 'the kernel solved it without userspace',
};

/** Stages in the order in which a fault lives through them. */
export const STAGES = ['raise', 'notify', 'serve', 'fill', 'wake', 'reenter'];

/** @type {Record<string, string>} */
const STAGE_MEANING = {
  raise: 'access → queued',
  notify: 'queued → handler has read it',
  serve: 'read → resolving ioctl begins',
  fill: 'the resolving ioctl',
  wake: 'ioctl done → vCPU running',
  reenter: 'fill done → KVM_RUN entered again',
};

/** @type {Record<string, Record<string, string>>} */
const STAGE_MEANING_OF_MODE = {
  exit: { raise: 'access → KVM_RUN returned', serve: 'KVM_RUN returned → resolving ioctl begins' },
  async: { wake: 'ioctl done → the waiting worker running' },
};
STAGE_MEANING_OF_MODE.memory_fault = STAGE_MEANING_OF_MODE.exit;

/** @param {string} mode @param {string} stage */
export function stageMeaning(mode, stage) {
  return STAGE_MEANING_OF_MODE[mode]?.[stage] ?? STAGE_MEANING[stage] ?? stage;
}

/**
 * One entry of the loss ledger. `exact`: whether totals and percentiles stay right in spite of it.
 * @typedef {{label: string, what: string, remedy: string, level: 'amber'|'red', exact: boolean}} Loss
 */

/** @type {Record<string, Loss>} */
export const LOSSES = {
  ring_full: {
    label: 'ring full', level: 'amber', exact: true,
    what: 'Records the kernel could not put into the ring buffer. Totals and percentiles come from in-kernel histograms and stay exact; single faults (stages, slowest list) are missing.',
    remedy: 'Give the collector a larger ring: --ring-bytes.',
  },
  map_full: {
    label: 'map full', level: 'red', exact: false,
    what: 'Faults the kernel had no room to follow: a BPF map was full. They are in no total.',
    remedy: 'Start the collector with more --max-vcpus or --max-vms.',
  },
  not_counted: {
    label: 'not counted', level: 'red', exact: false,
    what: 'VMs and vCPUs that the collector had no room for, or that exceeded their user\'s share of it. Nothing of them is in any total.',
    remedy: 'Start the collector with more --max-vcpus or --max-vms; the alarm says whose VMs take the room.',
  },
  unmatched_begin: {
    label: 'unmatched begin', level: 'amber', exact: true,
    what: 'Faults that began and never ended in sight: a VM killed in mid-fault, a handler that died.',
    remedy: 'Nothing to do when a VM ended; if it grows while VMs run, see exitscope doctor.',
  },
  unmatched_end: {
    label: 'unmatched end', level: 'amber', exact: true,
    what: 'Ends without a beginning: faults already under way when the probes were attached.',
    remedy: 'Nothing to do at the start; if it keeps growing, see exitscope doctor.',
  },
  unreadable: {
    label: 'unreadable', level: 'amber', exact: true,
    what: 'Times that user or kernel memory could not be read: such a fault may lack its address or its mode.',
    remedy: 'A few are harmless; if it keeps growing, see exitscope doctor.',
  },
  hook_missing: {
    label: 'hooks missing', level: 'amber', exact: false,
    what: 'Hooks this kernel did not let us attach: what they would show is not shown.',
    remedy: 'exitscope doctor says, hook by hook, what is missing and what to do.',
  },
  slow_client: {
    label: 'slow reader', level: 'amber', exact: true,
    what: 'Records and frames not sent because their reader (a browser, or the server) was slow. Totals have it all; single faults may be missing.',
    remedy: 'Fewer open pages or a faster machine help.',
  },
  server_full: {
    label: 'server full', level: 'red', exact: false,
    what: 'vCPUs and VMs beyond what the server keeps. They are not shown at all.',
    remedy: 'Watch fewer VMs at once.',
  },
  ring_error: {
    label: 'ring error', level: 'red', exact: true,
    what: 'Times that the ring held what is no record, and was skipped: collector and probes are not of one version.',
    remedy: 'Restart the collector after an upgrade.',
  },
  recording_error: {
    label: 'recording error', level: 'red', exact: true,
    what: 'Times that the recording could not be written. What is on the page is not concerned.',
    remedy: 'See the collector’s messages: disk full?',
  },
};

/** The entry for a counter, also for one this page has not heard of. @param {string} name @returns {Loss} */
export function lossOf(name) {
  return LOSSES[name] ?? {
    label: name.replaceAll('_', ' '), level: 'amber', exact: false,
    what: 'Counted by the server under this name.', remedy: 'See exitscope doctor.',
  };
}
