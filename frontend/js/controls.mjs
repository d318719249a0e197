// @ts-check
/** What the reader chooses: VM, window, pause, theme. VM and window live in the address, so that a link can be shared. */
import { byId, setAttribute, setText } from './dom.mjs';
import { isSpace } from './keys.mjs';
import { switchTheme, theme } from './theme.mjs';

export const WINDOWS_NS = Object.freeze({ '1s': 1e9, '5s': 5e9, '10s': 10e9, '30s': 30e9, '1m': 60e9, '5m': 300e9, '15m': 900e9 });
const DEFAULT_WINDOW = '10s';
/** The server's id for all running VMs together. */
export const ALL = 'all';

/** @typedef {{vm: string, window: keyof typeof WINDOWS_NS}} Choice  `vm` empty: the server chooses */

/** @param {string} hash @returns {Choice} */
export function choiceOf(hash) {
  const values = new URLSearchParams(hash.replace(/^#/, ''));
  const window = values.get('window') ?? '';
  return { vm: values.get('vm') ?? '', window: /** @type {Choice['window']} */ (window in WINDOWS_NS ? window : DEFAULT_WINDOW) };
}

/** @param {Choice} choice */
export function hashOf(choice) {
  const values = new URLSearchParams();
  if (choice.vm) values.set('vm', choice.vm);
  values.set('window', choice.window);
  return `#${values}`;
}

/**
 * @param {{onChoice: (choice: Choice) => void, onPause: (paused: boolean) => void, onTheme: () => void}} handlers
 * @returns {Choice}
 */
export function startControls({ onChoice, onPause, onTheme }) {
  let choice = choiceOf(location.hash);
  const picker = /** @type {HTMLSelectElement} */ (byId('vm'));
  const radios = /** @type {HTMLInputElement[]} */ ([...byId('window').querySelectorAll('input')]);
  const reflect = () => radios.forEach((radio) => { radio.checked = radio.value === choice.window; });
  const choose = (/** @type {Partial<Choice>} */ change) => {
    choice = { ...choice, ...change };
    history.replaceState(null, '', hashOf(choice));
    reflect();
    onChoice(choice);
  };
  picker.addEventListener('change', () => choose({ vm: picker.value }));
  for (const radio of radios) radio.addEventListener('change', () => choose({ window: /** @type {Choice['window']} */ (radio.value) }));
  addEventListener('hashchange', () => choose(choiceOf(location.hash)));
  reflect();
  startPause(onPause);
  startThemeButton(onTheme);
  return choice;
}

/** @param {(paused: boolean) => void} onPause */
function startPause(onPause) {
  const button = byId('pause');
  let paused = false;
  const toggle = () => {
    paused = !paused;
    setAttribute(button, 'aria-pressed', String(paused));
    setText(byId('pause-label'), paused ? 'Resume' : 'Pause');
    onPause(paused);
  };
  button.addEventListener('click', toggle);
  addEventListener('keydown', (event) => {
    if (button.classList.contains('away') || !isSpace(event)) return; // a replay has its own pause
    event.preventDefault();
    toggle();
  });
}

/** @param {() => void} onTheme */
export function startThemeButton(onTheme) {
  const button = byId('theme');
  const reflect = () => setAttribute(button, 'aria-label', `Switch to the ${theme() === 'dark' ? 'light' : 'dark'} theme`);
  button.addEventListener('click', () => {
    switchTheme();
    reflect();
    onTheme();
  });
  reflect();
}

let listed = '';

/** The VMs in the picker; touched only when the list changes. @param {Record<string, any>[]} vms @param {string} chosen @param {string|null} shown */
export function showPicker(vms, chosen, shown) {
  const picker = /** @type {HTMLSelectElement} */ (byId('vm'));
  const found = shown === ALL ? 'all VMs' : vms.find((vm) => vm.id === shown)?.name;
  const entries = [
    ['', chosen === '' && found ? `Automatic: ${found}` : 'Automatic'],
    [ALL, `All running VMs (${vms.filter((vm) => vm.state !== 'gone').length})`],
    ...vms.map((vm) => [vm.id, `${vm.name} · pid ${vm.pid}${vm.state === 'gone' ? ' · gone' : ''}`]),
  ];
  if (chosen && !entries.some(([id]) => id === chosen)) entries.push([chosen, `${chosen} · not seen`]);
  const key = JSON.stringify([entries, chosen]);
  if (key === listed) return;
  listed = key;
  picker.replaceChildren(...entries.map(([id, text]) => new Option(text, id, false, id === chosen)));
}
