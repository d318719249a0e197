// @ts-check
/** Dark and light: the system's choice unless the reader chose; and the style sheet's colours for the charts. */
import { PHASES } from './phases.mjs';
import { MODES, STAGES } from './words.mjs';

const KEY = 'exitscope-theme';
const RESOLVERS = ['COPY', 'CONTINUE', 'ZEROPAGE', 'MOVE', 'POISON', 'WAKE', 'MADV_POPULATE', 'other'];
/** Inferno (van der Walt and Smith, 2015): even steps of lightness, told apart by colour-blind eyes too. */
const INFERNO = ['#1f0c48', '#4a0c6b', '#781c6d', '#a52c60', '#cf4446', '#ed6925', '#fb9b06', '#f7d13d', '#fcffa4'];

const system = matchMedia('(prefers-color-scheme: dark)');

/** @returns {'dark'|'light'} */
export function theme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen === 'dark' || chosen === 'light' ? chosen : system.matches ? 'dark' : 'light';
}

/** Takes up the reader's earlier choice, and calls back whenever the theme changes. @param {() => void} onChange */
export function startTheme(onChange) {
  try {
    const chosen = localStorage.getItem(KEY);
    if (chosen === 'dark' || chosen === 'light') document.documentElement.dataset.theme = chosen;
  } catch { /* storage is forbidden here: follow the system */ }
  system.addEventListener('change', onChange);
}

/** @returns {'dark'|'light'} the theme after the switch */
export function switchTheme() {
  const next = theme() === 'dark' ? 'light' : 'dark';
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem(KEY, next);
  } catch { /* not kept, still switched */ }
  return next;
}

/**
 * @typedef {object} Palette
 * @property {string} text @property {string} muted @property {string} grid @property {string} card @property {string} window
 * @property {string} ink  text on coloured bars
 * @property {string} font
 * @property {Record<string, string>} modes @property {Record<string, string>} stages @property {Record<string, string>} resolvers
 * @property {{a: string, b: string}} sides  the two recordings of a comparison
 * @property {Record<string, string>} phases @property {Record<string, string>} phaseTexts  of a migration: shades, and the same legible as text
 * @property {string} stalled @property {string} demand @property {string} background
 * @property {[number, string][]} heat  Plotly colour scale, low to high
 */

/** The style sheet's colours as the browser resolves them now. @returns {Palette} */
export function palette() {
  const probe = document.createElement('i');
  document.body.append(probe);
  const colour = (/** @type {string} */ name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const table = (/** @type {string[]} */ names, /** @type {string} */ prefix) =>
    Object.fromEntries(names.map((name) => [name, colour(`${prefix}-${name.toLowerCase().replaceAll('_', '-')}`)]));
  const steps = theme() === 'dark' ? INFERNO : [...INFERNO].reverse();
  const answer = {
    text: colour('text'), muted: colour('muted'), grid: colour('grid'), card: colour('card'), window: colour('window'),
    ink: colour('ink'), sides: { a: colour('side-a'), b: colour('side-b') }, font: getComputedStyle(document.body).fontFamily,
    modes: table(MODES, 'mode'), stages: table(STAGES, 'stage'), resolvers: table(RESOLVERS, 'resolver'),
    phases: table(PHASES, 'phase'), phaseTexts: table(PHASES, 'phase-text'), stalled: colour('red'), demand: colour('fill-demand'), background: colour('fill-background'),
    heat: steps.map((step, index) => /** @type {[number, string]} */ ([index / (steps.length - 1), step])),
  };
  probe.remove();
  return answer;
}

/** An rgb() colour with an alpha. @param {string} colour @param {number} alpha */
export function faded(colour, alpha) {
  return colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);
}
