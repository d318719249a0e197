// @ts-check
/** What an operator asks, answered in a sentence from the same numbers that the charts draw. Pure. */
import { compact, count, covered, duration, NONE, share } from './format.mjs';
import { shownVm } from './gaps.mjs';
import { openFaults } from './open.mjs';
import { focusOf, isActive, stalledShare } from './phases.mjs';
import { STAGES } from './words.mjs';

/** @typedef {import('./charts/axes.mjs').View} View */

/** @param {number} number */
const short = (number) => (Number.isInteger(number) ? String(number) : (number < 0.095 ? number.toFixed(2).replace('0.00', '0') : number.toFixed(1)));

/** How many of how many, each of a moment of its own. @param {number|null|undefined} number @param {number|null|undefined} vcpus */
export const ofVcpus = (number, vcpus) => `${typeof number === 'number' ? short(number) : NONE} of ${typeof vcpus === 'number' ? short(vcpus) : NONE}`;

/** The newest column that says something. @template T @param {(T|null)[]} list */
const newest = (list) => list.findLast((value) => value !== null) ?? null;

/** @param {(number|null)[]} list */
function average(list) {
  const known = list.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + /** @type {number} */ (value), 0) / known.length : null;
}

/** @param {(number|null)[]} list */
const most = (list) => list.reduce((/** @type {number} */ high, value) => Math.max(high, value ?? 0), 0);

/** @param {number|null} vcpus */
const noun = (vcpus) => (vcpus === 1 ? 'vCPU' : 'vCPUs');

/** The share of their time that vCPUs stood still, though there were not always equally many. @param {(number|null)[]} mean @param {(number|null)[]} vcpus */
function stalledOver(mean, vcpus) {
  const all = vcpus.reduce((/** @type {number} */ sum, value, column) => sum + (mean[column] === null ? 0 : value ?? 0), 0);
  return all > 0 ? mean.reduce((/** @type {number} */ sum, value) => sum + (value ?? 0), 0) / all : null;
}

/** How many vCPUs stand still, now and so far. @param {View} view */
export function brownoutSentence({ series, frame }) {
  if (!series.stalled) return '';
  const { mean, peak, vcpus } = series.stalled;
  const migration = focusOf(frame);
  const known = migration && stalledShare(migration, frame.time_ns);
  if (frame.at_rest) return `On average ${ofVcpus(average(mean), average(vcpus)).replace(' of ', ' of the ')} ${noun(average(vcpus))} in the recording stood still, at most ${most(peak)} at once.`;
  const now = newest(vcpus) === 0 ? 'No vCPU runs now' : `In the last second ${ofVcpus(newest(mean), newest(vcpus))} ${noun(newest(vcpus))} stood still`;
  if (migration && known !== null) {
    const when = isActive(migration) ? 'so far' : `in all while ${migration.kind === 'page-in' ? 'memory came' : 'it migrated'}`;
    return `${now}; ${when} ${share(known)} of ${frame.vm === 'all' && new Set((frame.vcpus ?? []).map((/** @type {any} */ row) => row.vm)).size > 1 ? `${migration.vm_name}’s` : 'their'} time.`;
  }
  return `${now}; over the time shown, ${share(stalledOver(mean, vcpus))} of their time.`;
}

/** Pages on demand against pages ahead of need. @param {View} view */
export function fillsSentence({ series, frame }) {
  if (!series.fills) return '';
  const migration = focusOf(frame);
  const total = migration?.fills;
  const now = frame.at_rest ? '' : `In the last second ${compact(newest(series.fills.demand))} on demand, ${compact(newest(series.fills.background))} ahead of need`;
  if (total && total.demand + total.background > 0) {
    const when = isActive(migration) ? 'so far' : 'in all';
    return `${now ? `${now}; ` : ''}${now ? when : when.replace(/^./, (first) => first.toUpperCase())} ${count(total.demand)} of ${count(total.demand + total.background)} pages on demand, ${share(total.demand / (total.demand + total.background))}.`;
  }
  const seconds = series.columnNs / 1e9;
  const [demand, background] = [series.fills.demand, series.fills.background].map((list) => list.reduce((/** @type {number} */ sum, value) => sum + (value ?? 0) * seconds, 0));
  const all = `${frame.at_rest ? '' : 'over the time shown '}${count(demand)} of ${count(demand + background)} pages on demand${demand + background ? `, ${share(demand / (demand + background))}` : ''}.`;
  return now ? `${now}; ${all}` : all.replace(/^./, (first) => first.toUpperCase());
}

/** Whose time a stage is. `serve` is between two things that the kernel shows, so it is inferred. */
export const GROUPS = [
  { name: 'kernel', stages: ['raise', 'fill'] },
  { name: 'waiting for the handler', stages: ['notify'] },
  { name: 'handler and network', stages: ['serve'] },
  { name: 'wake-up', stages: ['wake', 'reenter'] },
];

/** @param {string} stage */
export const groupOf = (stage) => GROUPS.find(({ stages }) => stages.includes(stage))?.name ?? '';

/** Mean ns of each group, the largest first. @param {Record<string, any>} stages of one mode */
function grouped(stages) {
  const mean = (/** @type {string} */ stage) => (stages[stage]?.count ? stages[stage].sum / stages[stage].count : 0);
  return GROUPS.map(({ name, stages: parts }) => ({ name, ns: parts.reduce((sum, stage) => sum + mean(stage), 0) })).sort((a, b) => b.ns - a.ns);
}

/** The largest part of a fault's time, of the mode that has most faults. @param {Record<string, any>} frame */
export function timeSentence(frame) {
  const counts = Object.entries(frame.stages ?? {}).map(([mode, stages]) => /** @type {[string, any, number]} */ ([mode, stages, STAGES.reduce((high, stage) => Math.max(high, stages[stage]?.count ?? 0), 0)]));
  const [mode, stages, number] = counts.sort((a, b) => b[2] - a[2])[0] ?? ['', {}, 0];
  if (!number) return '';
  const [largest, ...rest] = grouped(stages);
  const whole = largest.ns + rest.reduce((sum, { ns }) => sum + ns, 0);
  if (!whole) return '';
  const part = (/** @type {{name: string, ns: number}} */ group) => `${group.name} ${share(group.ns / whole)}`;
  return `The largest part of a fault in ${mode} mode: ${largest.name}${largest.name.includes('network') ? ' (inferred)' : ''}, ${duration(largest.ns)} or ${share(largest.ns / whole)}. Then ${rest.filter(({ ns }) => ns > 0).map(part).join(', ')}.`;
}

/** Roles that read events, the surest first: QEMU's thread, one that also copies, one known only by what it did. */
const READERS = [/^uffd reader/, /^uffd/, /^handler/];
/** A thread is at its limit above this share of its time. */
const FULL = 0.85;

/** A wait as long as this is no matter of how busy somebody is. */
const STUCK_NS = 1e9;

/** Whether the handler keeps up: judged by what it served and by its queue, its share of a CPU only says why. @param {Record<string, any>} frame */
export function handlerSentence(frame) {
  const vm = shownVm(frame);
  if (vm?.state === 'gone') return 'This VM has ended.';
  if (vm?.unreadable) return 'How long the queue is, is not known: the VM’s process cannot be looked at.';
  if (frame.queue === null) return 'How long the queue was, is not recorded.';
  const { pending: unread = 0, total = 0 } = frame.queue ?? {};
  const served = (frame.modes?.uffd?.count ?? 0) + (frame.modes?.async?.count ?? 0);
  const oldestNs = openFaults(frame)[0]?.age_ns ?? 0;
  const reader = readerOf(frame);
  const name = reader ? `The ${reader.several ? 'busiest ' : ''}${reader.role}${reader.several ? ` (${reader.name})` : ''}` : 'The handler';
  const busy = typeof reader?.busy === 'number' && `${reader.role}: busy ${share(reader.busy)}`;
  const span = `the last ${covered(frame)}`;
  const queue = `${count(unread)} unread of ${count(total)} waiting`;
  if (!served && !total) return `No userfaultfd fault ended in ${span}, and none waits in the queue${oldestNs >= STUCK_NS ? `; yet a vCPU has been in a fault for ${duration(oldestNs)}` : ''}.`;
  if (!served && oldestNs < STUCK_NS) return `No fault ended in ${span}; ${queue}.`;
  if (!served) return `${name} does not keep up: none of ${count(total)} waiting faults ended in ${span}, the oldest is ${duration(oldestNs)} old; ${count(unread)} unread${busy ? `, ${busy}` : ''}.`;
  const done = `${count(served)} faults ended in ${span}`;
  if (oldestNs >= STUCK_NS && total) return `${name} has left a fault open for ${duration(oldestNs)}, though ${done}; ${queue}.`;
  if (unread > Math.max(4, (frame.vcpus?.length ?? 0) / 4)) {
    if (typeof reader?.busy !== 'number') return `${name} falls behind: ${queue}; ${done}.`;
    return reader.busy >= FULL ? `${name} is busy ${share(reader.busy)}: it is at its limit; ${queue}.` : `${name} is busy only ${share(reader.busy)}, and yet ${queue}: it waits for something itself.`;
  }
  if (typeof reader?.busy === 'number' && reader.busy >= FULL) return `${name} is busy ${share(reader.busy)}: it is at its limit; ${queue}.`;
  return `${name} keeps up: ${done}, ${queue}; ${typeof reader?.busy === 'number' ? `busy ${share(reader.busy)}` : 'how busy it is, is not known'}.`;
}

/** The busiest of the threads that read events. @param {Record<string, any>} frame @returns {{role: string, name: string, busy: number|null, several: boolean}|null} */
function readerOf(frame) {
  const all = /** @type {any[]} */ (frame.threads ?? []);
  const threads = READERS.map((role) => all.filter((thread) => role.test(thread.role ?? ''))).find((found) => found.length) ?? [];
  const reader = threads.reduce((busiest, each) => ((each.busy ?? -1) > (busiest?.busy ?? -2) ? each : busiest), null);
  return reader && { ...reader, several: threads.length > 1 };
}
