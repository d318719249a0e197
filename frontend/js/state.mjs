// @ts-check
/** The page's state: a pure reducer from what the server sends (S4) and what the connection does. */

/** As many one-second ticks as the longest window has. */
export const MAX_TICKS = 900;
/** The host's clock is taken anew when it moved by more than this against CLOCK_MONOTONIC. */
const CLOCK_STEP_MS = 50;

/**
 * @typedef {{rate_per_s: number, p50: number|null, p90: number|null, p99: number|null, max: number|null}} ModeTick  latencies in ns
 * @typedef {{time_ns: number, modes: Record<string, ModeTick>, heat: (number|null)[], stall?: (number|null)[], queue?: {pending: number, total: number},
 *   stalled?: {mean: number, peak: number, vcpus: number}|null, fills?: {demand: number, background: number}|null, gpa?: import('./series.mjs').GpaTick|null}} Tick
 * @typedef {Record<string, any>} Frame  the frame object of S4
 * @typedef {object} State
 * @property {'connecting'|'open'|'lost'} connection
 * @property {number|null} retryAtMs  when the next attempt to connect begins (page clock)
 * @property {Frame|null} frame  the newest frame
 * @property {number} receivedMs  page clock when it came
 * @property {string|null} vm  the VM that ticks and frame are about
 * @property {Tick[]} ticks  oldest first; a new array whenever it changes
 * @property {number} clockMs  wall_ms minus time_ns/1e6 of the traced host
 * @property {{code: string, message: string, hint?: string}|null} error  the server's last complaint
 */

/** @type {Readonly<State>} */
export const INITIAL = Object.freeze({
  connection: 'connecting', retryAtMs: null, frame: null, receivedMs: 0, vm: null, ticks: [], clockMs: 0, error: null,
});

/**
 * @param {State} state @param {Record<string, any>} event a message of S4 or `{type: "connection", status, retryAtMs}`
 * @param {number} nowMs page clock
 * @returns {State} a new state, or the same one when the event changes nothing
 */
export function reduce(state, event, nowMs) {
  switch (event.type) {
    case 'connection':
      return { ...state, connection: event.status, retryAtMs: event.retryAtMs ?? null };
    case 'history':
      return { ...state, vm: event.vm ?? null, ticks: (event.ticks ?? []).slice(-MAX_TICKS), error: null };
    case 'frame':
      return withFrame(state, event, nowMs);
    case 'error':
      return { ...state, error: event.error };
    default:
      return state;
  }
}

/** @param {State} state @param {Frame} frame @param {number} nowMs @returns {State} */
function withFrame(state, frame, nowMs) {
  const vm = frame.vm ?? null;
  const clockMs = frame.wall_ms - frame.time_ns / 1e6;
  return {
    ...state,
    connection: 'open',
    retryAtMs: null,
    frame,
    receivedMs: nowMs,
    vm,
    ticks: withTick(vm === state.vm ? state.ticks : [], frame.tick),
    clockMs: Math.abs(clockMs - state.clockMs) > CLOCK_STEP_MS ? clockMs : state.clockMs,
  };
}

/** @param {Tick[]} ticks @param {Tick|null|undefined} tick @returns {Tick[]} */
function withTick(ticks, tick) {
  if (!tick) return ticks;
  const last = ticks.length ? ticks[ticks.length - 1].time_ns : -Infinity;
  if (tick.time_ns === last) return ticks;
  if (tick.time_ns < last) return [tick]; // a recording that began again: its past is not before this
  return [...ticks.slice(1 - MAX_TICKS), tick];
}
