// @ts-check
/**
 * The only place where numbers become text: nanoseconds turn into µs, ms and s here, rates get their k and M.
 * Everything upstream keeps nanoseconds. Every function answers NONE for null, undefined and NaN.
 */

import { aheadMs, zoneName } from './zone.mjs';

export const NONE = '–';
const NBSP = '\u00a0';
const NS_PER_S = 1e9;
// Made once: toLocaleString makes one for every call, and a table of 256 vCPUs calls it a thousand times a second.
const WHOLE = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
// Moments are shifted to the shown zone before, so that all of the page asks one place which zone that is.
const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23', timeZone: 'UTC' });
const DAY = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric', timeZone: 'UTC' });

/** @param {unknown} value @returns {value is number} */
const known = (value) => typeof value === 'number' && Number.isFinite(value);

/** Three significant digits, never an exponent: 1.23, 12.3, 123. @param {number} value */
function three(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

/** A length of time: 812 ns, 66.4 µs, 1.32 ms, 4.07 s, 2 min 05 s, 1 h 02 min. @param {number|null|undefined} ns */
export function duration(ns) {
  if (!known(ns)) return NONE;
  if (ns < 999.5) return `${Math.round(ns)}${NBSP}ns`;
  if (ns < 999.5e3) return `${three(ns / 1e3)}${NBSP}µs`;
  if (ns < 999.5e6) return `${three(ns / 1e6)}${NBSP}ms`;
  if (ns < 59.95e9) return `${three(ns / NS_PER_S)}${NBSP}s`;
  return long(Math.round(ns / NS_PER_S));
}

/** @param {number} seconds at least 60 */
function long(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}${NBSP}min${NBSP}${String(seconds % 60).padStart(2, '0')}${NBSP}s`;
  return `${Math.floor(minutes / 60)}${NBSP}h${NBSP}${String(minutes % 60).padStart(2, '0')}${NBSP}min`;
}

/** Two lengths of time beside each other, in one unit: 58.2 s | 61.4 s. @param {number} ns @param {number} otherNs */
export function durations(ns, otherNs) {
  const most = Math.max(ns, otherNs);
  const unit = /** @type {[string, number]|undefined} */ ([['ns', 1], ['µs', 1e3], ['ms', 1e6], ['s', NS_PER_S]].find(([, size]) => most < 999.5 * Number(size) || (size === NS_PER_S && most < 9999.5 * NS_PER_S)));
  if (!unit) return `${duration(ns)} | ${duration(otherNs)}`;
  return [ns, otherNs].map((each) => `${most / unit[1] >= 99.95 ? Math.round(each / unit[1]) : three(each / unit[1])}${NBSP}${unit[0]}`).join(' | ');
}

/** How long ago, coarse so that it doesn't flicker: 0.4 s, 12 s, 3 min 20 s. @param {number|null|undefined} ns */
export function age(ns) {
  if (!known(ns)) return NONE;
  const seconds = Math.max(0, ns) / NS_PER_S;
  if (seconds < 9.95) return `${seconds.toFixed(1)}${NBSP}s`;
  return seconds < 59.5 ? `${Math.round(seconds)}${NBSP}s` : long(Math.round(seconds));
}

/** An exact count with thousands separated: 12,345. @param {number|null|undefined} value */
export function count(value) {
  return known(value) ? WHOLE.format(value) : NONE;
}

/** "1 vCPU", "12 vCPUs". @param {number|null|undefined} value */
export function vcpuCount(value) {
  return `${count(value)} ${value === 1 ? 'vCPU' : 'vCPUs'}`;
}

/** A short number: 7, 0.42, 812, 12.3k, 4.50M. @param {number|null|undefined} value */
export function compact(value) {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  if (size < 999.5) return size === 0 ? '0' : Number.isInteger(value) || size >= 99.95 ? String(Math.round(value)) : trim(three(value));
  if (size < 999.5e3) return `${three(value / 1e3)}k`;
  if (size < 999.5e6) return `${three(value / 1e6)}M`;
  return `${three(value / 1e9)}G`;
}

/** @param {string} text a decimal number */
const trim = (text) => text.replace(/\.?0+$/, '');

/** Events per second: 812/s, 12.3k/s. @param {number|null|undefined} perSecond */
export function rate(perSecond) {
  return known(perSecond) ? `${compact(perSecond)}/s` : NONE;
}

/** A share of 1 as per cent: 0 %, 0.4 %, 37 %. @param {number|null|undefined} fraction */
export function share(fraction) {
  if (!known(fraction)) return NONE;
  const percent = fraction * 100;
  if (percent === 0) return `0${NBSP}%`;
  if (percent < 0.1) return `<0.1${NBSP}%`;
  return `${percent < 9.95 ? percent.toFixed(1) : Math.round(percent)}${NBSP}%`;
}

/** Wall clock of the host's moment in the shown zone: 14:03:27. @param {number|null|undefined} wallMs Unix ms */
export function clock(wallMs) {
  return known(wallMs) ? CLOCK.format(wallMs + aheadMs(wallMs)) : NONE;
}

/** Day and clock in the shown zone, and which that is: 22 Nov 2026, 14:03:27 UTC+1. @param {number|null|undefined} wallMs Unix ms @param {boolean} [named] whether to name the zone */
export function moment(wallMs, named = true) {
  return known(wallMs) ? `${DAY.format(wallMs + aheadMs(wallMs))}, ${clock(wallMs)}${named ? `${NBSP}${zoneName(wallMs)}` : ''}` : NONE;
}

/** A position or a running length, as a player shows it: 0:07, 12:34, 1:02:03. @param {number|null|undefined} ns */
export function position(ns) {
  if (!known(ns)) return NONE;
  const seconds = Math.max(0, Math.floor(ns / NS_PER_S));
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, String(seconds % 60).padStart(2, '0')];
  return hours ? `${hours}:${String(minutes).padStart(2, '0')}:${rest}` : `${minutes}:${rest}`;
}

/** A position in a short or a long recording: 1.50 s of 3 s, 12.5 s of 20 s, else as `position`. @param {number} ns @param {number} lengthNs of the whole */
export function place(ns, lengthNs) {
  if (lengthNs >= 30e9) return position(ns);
  return `${(ns / NS_PER_S).toFixed(lengthNs < 10e9 ? 2 : 1)}${NBSP}s`;
}

/** A size: 812 B, 12.3 kB, 4.50 MB. @param {number|null|undefined} value bytes */
export function bytes(value) {
  if (!known(value)) return NONE;
  if (value < 999.5) return `${Math.round(value)}${NBSP}B`;
  const unit = value < 999.5e3 ? 'kB' : value < 999.5e6 ? 'MB' : 'GB';
  return `${three(value / { kB: 1e3, MB: 1e6, GB: 1e9 }[unit])}${NBSP}${unit}`;
}

/** Guest memory, in the units in which it is given out: 512 KiB, 96 MiB, 3.5 GiB. @param {number|null|undefined} value bytes */
export function binary(value) {
  if (!known(value)) return NONE;
  if (value === 0) return '0';
  // The largest unit in which two decimals say it exactly: neighbours on an axis must not read the same.
  const power = [4, 3, 2].find((size) => value >= 1024 ** size && Number.isInteger((value / 1024 ** size) * 100)) ?? (value >= 1024 ** 2 ? 2 : 1);
  return `${trim((value / 1024 ** power).toFixed(2))}${NBSP}${['KiB', 'MiB', 'GiB', 'TiB'][power - 1]}`;
}

/**
 * A moment as text for a Plotly date axis, to 0.1 µs. Of a number Plotly shows the browser's zone; a text it shows as it stands.
 * @param {number} shownMs Unix ms, shifted to the zone to be shown
 */
export function stamp(shownMs) {
  const whole = Math.floor(shownMs);
  if (Number.isNaN(new Date(whole).getTime())) return '';
  return `${new Date(whole).toISOString().slice(0, -1)}${String(Math.floor((shownMs - whole) * 1e4)).padStart(4, '0')}`;
}

/** A guest or host address: 0x7f12_3456_7000 without the underscores. @param {number|string|null|undefined} value */
export function address(value) {
  if (value === null || value === undefined) return NONE;
  if (typeof value === 'string') return /^(0x)?[0-9a-f]+$/i.test(value) ? value : NONE;
  return Number.isFinite(value) ? `0x${value.toString(16)}` : NONE;
}

/** Foreign text for Plotly, which reads a few tags and entities in its labels: they stay text. @param {string} text */
export function plain(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

/** Label of a span that is a round number of seconds or minutes: 10 s, 2 min. @param {number} ns */
export function span(ns) {
  const seconds = Math.round(ns / NS_PER_S);
  return seconds < 60 || seconds % 60 ? `${seconds}${NBSP}s` : `${seconds / 60}${NBSP}min`;
}

/**
 * How much time a window really covers: it ends now and begins where a second began, so it may be a little longer than asked for.
 * @param {Record<string, any>} frame
 */
export function covered({ window_ns: windowNs, window_filled_ns: filledNs, at_rest: whole }) {
  if (whole) return windowNs < 10 * NS_PER_S ? duration(windowNs) : span(windowNs);
  if (!known(filledNs) || Math.abs(filledNs - windowNs) <= 0.005 * windowNs) return span(windowNs);
  return filledNs < 59.95 * NS_PER_S ? `${(Math.max(filledNs, 0) / NS_PER_S).toFixed(1)}${NBSP}s` : age(filledNs);
}

/**
 * Whole decades around [lowNs, highNs] for a logarithmic axis of durations, with a label on each (a single decade gets two more).
 * @param {number} lowNs @param {number} highNs
 * @returns {{low: number, high: number, values: number[], labels: string[]}} low and high are log10(ns)
 */
export function decades(lowNs, highNs) {
  const low = Math.floor(Math.log10(Math.max(lowNs, 1)) + 1e-9);
  const high = Math.max(Math.ceil(Math.log10(Math.max(highNs, 1)) - 1e-9), low + 1);
  const values = [];
  const steps = high - low === 1 ? [1, 2, 5] : [1];
  for (let power = low; power < high; power += 1) values.push(...steps.map((step) => step * 10 ** power));
  values.push(10 ** high);
  return { low, high, values, labels: values.map((ns) => duration(ns).replace(/\.0+(?=\D)/, '')) };
}

/**
 * A round scale from 0 to at least `high`, 1-2-5 steps, labelled by `label`.
 * @param {number} high @param {(value: number) => string} label @param {number} [steps]
 */
export function scale(high, label, steps = 4) {
  const rough = Math.max(high, 1e-9) / steps;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((value) => value >= rough * 0.9999) ?? rough;
  const values = [];
  for (let index = 0; index * step < high + step * 0.999; index += 1) values.push(index * step);
  return { high: values[values.length - 1], values, labels: values.map((value) => (value === 0 ? '0' : label(value)).replace(/(\.\d*?)0+(?=\D|$)/, '$1').replace(/\.(?=\D|$)/, '')) };
}
