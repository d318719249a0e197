// @ts-check
/** Which state the page is in, as one label and one sentence with the command that helps: pure. */
import { age } from './format.mjs';

/** Data older than this is stale: ten times the interval at which the server sends. */
export const STALE_NS = 2e9;

/**
 * @typedef {'live'|'replay'|'stale'|'waiting'|'connecting'|'offline'|'paused'} Kind
 * @typedef {object} Status
 * @property {Kind} kind
 * @property {string} label  for the badge
 * @property {number|null} ageNs  since the newest data
 * @property {string} sentence  why, or empty
 * @property {string} command  what to type, or empty
 * @property {boolean} dim  whether what is drawn is no longer true of now
 */

/**
 * @param {import('./state.mjs').State} state the newest state, also while paused
 * @param {number} nowMs page clock @param {number|null} pausedMs when the display was frozen
 * @param {boolean} [replaying] whether a recording is played: then old data is no news
 * @returns {Status}
 */
export function statusOf(state, nowMs, pausedMs, replaying = false) {
  const source = state.frame?.source;
  const ageNs = state.frame ? (source.age_ns ?? 0) + (nowMs - state.receivedMs) * 1e6 : null;
  const status = sourceStatus(state, source, ageNs, nowMs, replaying);
  if (pausedMs === null) return status;
  const behind = `${age((nowMs - pausedMs) * 1e6)} behind`;
  const also = status.kind === 'live' ? '' : ` The stream itself: ${status.label.toLowerCase()}. ${status.sentence}`;
  return { ...status, kind: 'paused', label: 'PAUSED', dim: false, sentence: `Display frozen, ${behind}; the stream goes on.${also}` };
}

/**
 * @param {import('./state.mjs').State} state @param {Record<string, any>|undefined} source
 * @param {number|null} ageNs @param {number} nowMs @param {boolean} replaying @returns {Status}
 */
function sourceStatus(state, source, ageNs, nowMs, replaying) {
  const base = { ageNs, sentence: source?.reason ?? '', command: '', dim: false };
  if (state.connection === 'lost') {
    const seconds = Math.max(0, Math.ceil(((state.retryAtMs ?? nowMs) - nowMs) / 1000));
    const next = seconds ? `Trying again in ${seconds}\u00a0s.` : 'Trying again now.';
    return { ...base, kind: 'offline', label: 'NO SERVER', dim: true, command: 'exitscope serve',
      sentence: `The server does not answer${state.frame ? '; below is the last that it sent' : ''}. ${next}` };
  }
  if (!source) return { ...base, kind: 'connecting', label: 'CONNECTING' };
  if (source.state === 'waiting' || source.kind === 'none') {
    return { ...base, kind: 'waiting', label: 'WAITING', dim: true, command: 'sudo exitscope collect',
      sentence: source.reason ?? 'The server runs, but no collector is connected to it.' };
  }
  const replay = source.kind === 'replay';
  if (replay && replaying) return { ...base, kind: 'replay', label: 'REPLAY' };
  if (source.state === 'stale' || (ageNs ?? 0) > STALE_NS) {
    return { ...base, kind: 'stale', label: 'STALE', dim: true,
      sentence: source.reason ?? 'The collector is connected but sends nothing; what you see is old.' };
  }
  if (replay) {
    return { ...base, kind: 'replay', label: 'REPLAY', sentence: source.reason ?? 'This is a recording, not this host now.' };
  }
  return { ...base, kind: 'live', label: 'LIVE' };
}
