// @ts-check
/** In which time zone the page writes clocks: the browser's own, or UTC if the reader chose it. Kept in the browser. */
import { byId, setAttribute, setText } from './dom.mjs';

const KEY = 'exitscope-zone';
const UTC = 'UTC';

let chosen = '';
try {
  chosen = localStorage.getItem(KEY) ?? '';
} catch { /* storage is forbidden here: the browser's zone */ }

/** Minutes by which the shown clock is ahead of UTC at this moment. @param {number} wallMs Unix ms */
const aheadMinutes = (wallMs) => (chosen === UTC ? 0 : -new Date(wallMs).getTimezoneOffset());

/** The same in ms. @param {number} wallMs Unix ms */
export const aheadMs = (wallMs) => aheadMinutes(wallMs) * 60_000;

/** The zone as its distance from UTC, which is never ambiguous: UTC, UTC−5, UTC+5:30. @param {number} wallMs Unix ms */
export function zoneName(wallMs) {
  const minutes = aheadMinutes(wallMs);
  if (!minutes) return UTC;
  const [hours, rest] = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60];
  return `UTC${minutes < 0 ? '−' : '+'}${hours}${rest ? `:${String(rest).padStart(2, '0')}` : ''}`;
}

/** The button that names the zone and chooses the other one. @param {() => void} onZone called after the choice */
export function startZoneButton(onZone) {
  const button = byId('zone');
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const reflect = () => {
    const name = zoneName(Date.now());
    setText(button, name);
    const words = chosen === UTC ? `Clocks are in UTC. Show the browser’s zone, ${own}` : `Clocks are in the browser’s zone, ${own} (${name}). Show UTC`;
    setAttribute(button, 'aria-label', words);
    button.title = words;
  };
  button.addEventListener('click', () => {
    chosen = chosen === UTC ? '' : UTC;
    try {
      localStorage.setItem(KEY, chosen);
    } catch { /* not kept, still switched */ }
    reflect();
    onZone();
  });
  reflect();
}
