// @ts-check
/** What a recording says of itself: what it holds, what is missing, and the conditions it was made under. */
import { byId, make } from './dom.mjs';
import { bytes, count, duration, moment, position, vcpuCount } from './format.mjs';

/** @param {Record<string, any>} meta GET /api/v1/recordings/{id} @returns {[string, string][]} */
export function conditionsOf(meta) {
  /** @type {[string, string][]} */
  const rows = [
    ['Recorded', `${moment(meta.started_wall_ms)}, for ${position(meta.ended_ns - meta.started_ns)}`],
    ['Host', [meta.host, meta.kernel && `Linux ${meta.kernel}`].filter(Boolean).join(', ')],
    ['CPU', [meta.cpu_model, meta.cpus && `${count(meta.cpus)} CPUs`].filter(Boolean).join(', ')],
  ];
  for (const vm of meta.vms ?? []) rows.push(...vmConditions(vm, meta.vms.length > 1));
  const hooks = meta.hooks ?? [];
  const attached = hooks.filter((/** @type {any} */ hook) => hook.status === 'attached').length;
  if (hooks.length) rows.push(['Hooks', `${attached} of ${hooks.length} attached`]);
  const load = loadOf(meta);
  if (load) rows.push(['Machine load', load]);
  rows.push(['Sampling', meta.sampling === 'none' ? 'none: every fault is a record' : String(meta.sampling ?? 'not known')]);
  return rows.filter(([, value]) => value);
}

/** How busy the host was, when the recording began and when it ended. @param {Record<string, any>} meta */
function loadOf(meta) {
  const { average: first } = meta.load_start ?? {};
  const { average: last, vms } = meta.load_stop ?? {};
  const others = Math.max((vms ?? 0) - (meta.vms ?? []).length, 0);
  const facts = [
    typeof first === 'number' && `${first.toFixed(1)} at the begin`, typeof last === 'number' && `${last.toFixed(1)} at the end`,
    others && `${count(others)} other ${others === 1 ? 'VM' : 'VMs'}`,
  ].filter(Boolean);
  return facts.join(', ');
}

/** @param {Record<string, any>} vm @param {boolean} several @returns {[string, string][]} */
function vmConditions(vm, several) {
  const handlers = (vm.handlers ?? []).length;
  const facts = [
    vm.vmm, vm.pid && `pid ${vm.pid}`, Array.isArray(vm.vcpus) && vcpuCount(vm.vcpus.length), handlers && `${count(handlers)} ${handlers === 1 ? 'handler thread' : 'handler threads'}`,
    vm.backing, vm.memory_bytes && bytes(vm.memory_bytes), vm.async_faults && 'async page faults',
  ].filter(Boolean).join(' · ');
  /** @type {[string, string][]} */
  const rows = [[several ? `VM ${vm.name || vm.id}` : 'VM', several ? facts : [vm.name, facts].filter(Boolean).join(' · ')]];
  if (vm.uffd_features?.length) rows.push(['uffd features', vm.uffd_features.join(' ')]);
  if (vm.command) rows.push(['Command', vm.command]);
  return rows;
}

/** Whether the recording is whole, in a sentence, and how grave it is if not. @param {Record<string, any>} meta @returns {{text: string, kind: 'good'|'warn'|'bad'}} */
export function wholeness(meta) {
  if (meta.state === 'failed') return { kind: 'bad', text: `Failed: ${meta.note || 'it could not be finished.'}` };
  const parts = [];
  if (meta.lost_ns > 0) parts.push(`at most ${duration(meta.lost_ns)} is missing at the end`);
  if (meta.gaps?.length) parts.push(`${count(meta.gaps.length)} ${meta.gaps.length === 1 ? 'gap' : 'gaps'} in which no collector ran`);
  if (meta.complete === false && !parts.length) parts.push('some faults have no record');
  const note = meta.note ? ` ${meta.note}` : '';
  if (parts.length) return { kind: 'warn', text: `${parts.join('; ').replace(/^./, (first) => first.toUpperCase())}.${note}` };
  return { kind: 'good', text: `Whole: every fault between begin and end is a record.${note}` };
}

/** @param {Record<string, any>} meta */
export function showConditions(meta) {
  byId('conditions').replaceChildren(...conditionsOf(meta).flatMap(([name, value]) => {
    const text = make('dd', name === 'Command' || name === 'uffd features' ? 'mono' : '', value);
    text.title = value;
    return [make('dt', '', name), text];
  }));
  const { text, kind } = wholeness(meta);
  const line = byId('wholeness');
  line.textContent = text;
  line.className = kind;
}
