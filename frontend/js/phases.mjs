// @ts-check
/** What the server says of migrations, made ready for the page: which are shown, and their phases on the clock. Pure. */

/**
 * @typedef {Record<string, any>} Migration  as GET /api/v1/migrations lists it
 * @typedef {{name: string, fromNs: number, toNs: number, open: boolean}} Phase  `open`: it goes on
 * @typedef {Phase & {label: string}} Band  a phase on the charts over time
 */

/** Phases with a colour of their own; others look like `setup`. */
export const PHASES = ['setup', 'precopy', 'postcopy', 'paging'];

/** @param {string} name */
export const phaseColour = (name) => (PHASES.includes(name) ? name : 'setup');

const KIND = /** @type {Record<string, string>} */ ({ postcopy: 'Postcopy migration', precopy: 'Precopy migration', 'page-in': 'Page-in' });

/** @param {Migration} migration */
export const kindWords = (migration) => KIND[migration.kind] ?? migration.kind ?? 'Migration';

/** @param {Migration} migration */
export const isActive = (migration) => migration.state === 'active';

/** Most that the page shows at once. */
const MOST = 4;

/**
 * What the strip shows: all that go on, or else the one that ended last.
 * @param {Record<string, any>|null} frame @returns {Migration[]} newest first
 */
export function shownMigrations(frame) {
  const all = [...(frame?.migrations ?? [])].sort((a, b) => b.from_ns - a.from_ns);
  const active = all.filter(isActive);
  if (active.length) return active.slice(0, MOST);
  const last = all.reduce((latest, each) => ((each.to_ns ?? 0) > (latest?.to_ns ?? -1) ? each : latest), /** @type {Migration|null} */ (null));
  return last ? all.filter((each) => each === last || each.id === last.other) : [];
}

/** The one that numbers "so far" are about: of two sides the destination; null if there is none, or several VMs have one each. @param {Record<string, any>|null} frame @returns {Migration|null} */
export function focusOf(frame) {
  const shown = withoutSources(shownMigrations(frame));
  return new Set(shown.map(({ vm }) => vm)).size === 1 ? shown[0] : null;
}

/** Without the sources whose destination is there, too: they are one migration. @param {Migration[]} migrations */
function withoutSources(migrations) {
  const sources = new Set(migrations.filter((each) => each.role === 'destination').map((each) => each.other));
  return migrations.filter((each) => !sources.has(each.id));
}

/** Its phases one after another; what is open ends now. @param {Migration} migration @param {number} nowNs @returns {Phase[]} */
export function phasesOf(migration, nowNs) {
  const end = migration.to_ns ?? Math.max(nowNs, migration.from_ns);
  const phases = (migration.phases ?? []).map((/** @type {any} */ phase) => ({ name: String(phase.name), fromNs: phase.from_ns, toNs: phase.to_ns ?? end, open: phase.to_ns === null || phase.to_ns === undefined }));
  if (phases.length) return phases.filter((/** @type {Phase} */ phase) => phase.toNs >= phase.fromNs);
  return [{ name: migration.kind === 'precopy' ? 'precopy' : migration.kind === 'postcopy' ? 'postcopy' : 'paging', fromNs: migration.from_ns, toNs: end, open: !migration.to_ns }];
}

/**
 * Phases within a stretch of time, for the charts: of the two sides of one migration only the destination's, and what
 * several VMs do at once only once.
 * @param {Record<string, any>} frame @param {number} fromNs @param {number} toNs @returns {Band[]} by begin
 */
export function bandsOf(frame, fromNs, toNs) {
  const drawn = withoutSources(frame.migrations ?? []).filter((each) => each.from_ns < toNs && (each.to_ns ?? toNs) > fromNs).slice(-MOST);
  const several = new Set(drawn.map((each) => each.vm)).size > 1;
  const bands = drawn.flatMap((each) => phasesOf(each, toNs)
    .filter((phase) => phase.toNs > fromNs && phase.fromNs < toNs)
    .map((phase) => ({ ...phase, label: several ? `${each.vm_name} ${phase.name}` : phase.name, fromNs: Math.max(phase.fromNs, fromNs), toNs: Math.min(phase.toNs, toNs) })));
  /** @type {Band[]} */
  const merged = [];
  for (const band of bands.sort((one, other) => one.fromNs - other.fromNs)) {
    const same = merged.find((each) => each.name === band.name && band.fromNs < each.toNs);
    if (same) Object.assign(same, { toNs: Math.max(same.toNs, band.toNs), open: same.open || band.open, label: same.label === band.label ? band.label : band.name });
    else merged.push(band);
  }
  return merged;
}

/**
 * How much of their time the vCPUs stood still since pages were first missing, 0 to 1; null if that is not known.
 * @param {Migration} migration @param {number} nowNs
 */
export function stalledShare(migration, nowNs) {
  if (migration.standstill) return migration.standstill.share;
  const { mean, vcpus } = migration.brownout ?? {};
  if (typeof mean === 'number' && vcpus > 0) return Math.min(mean / vcpus, 1);
  const rows = migration.stall ?? [];
  const lengthNs = (migration.to_ns ?? nowNs) - (migration.missing_from_ns ?? migration.from_ns);
  return rows.length && lengthNs > 0 ? Math.min(stallNs(migration) / (rows.length * lengthNs), 1) : null;
}

/** VMs that run elsewhere by now, so that their vCPUs are nobody's time: sources that have switched over. @param {Record<string, any>} frame @returns {Set<string>} */
export function vmsAway(frame) {
  const sources = (frame.migrations ?? []).filter((/** @type {Migration} */ each) => each.role === 'source' && (each.state === 'completed' || String(each.phases?.at(-1)?.name ?? '').startsWith('postcopy')));
  return new Set(sources.map((/** @type {Migration} */ each) => each.vm));
}

/** Time in which its vCPUs stood still, all together, ns. @param {Migration} migration */
export const stallNs = (migration) => (migration.stall ?? []).reduce((/** @type {number} */ sum, /** @type {any} */ row) => sum + row.stall_ns, 0);

/** QEMU's own account of the same, ns; null where it keeps none. @param {Migration} migration */
export function blocktimeNs(migration) {
  const each = migration.qmp?.vcpu_blocktime_ns;
  return each?.length ? each.reduce((/** @type {number} */ sum, /** @type {number} */ ns) => sum + ns, 0) : null;
}

/** Why QEMU's own account is missing, in words; empty if it is not. @param {Migration} migration */
export function notFollowed(migration) {
  const { follow, reason } = migration.qmp ?? {};
  const words = /** @type {Record<string, string>} */ ({
    busy: 'not followed: monitor busy', refused: 'not followed: monitor refused', lost: 'QMP lost', absent: 'no QMP socket known',
  });
  if (follow === 'absent' && migration.kind === 'page-in') return null; // any VMM's; nothing is missing
  return follow && follow !== 'followed' ? { words: words[follow] ?? `QMP ${follow}`, reason: reason ?? '' } : null;
}
