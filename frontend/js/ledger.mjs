// @ts-check
/** The loss ledger: a row of chips always in sight, and what each means in a panel. */
import { byId, make, setText } from './dom.mjs';
import { compact, count } from './format.mjs';
import { startPanel } from './popup.mjs';
import { lossOf, LOSSES } from './words.mjs';

let drawn = '';

/** Opens and closes the panel, also by Escape and by a click elsewhere. */
export function startLedger() {
  startPanel(byId('ledger-button'), byId('ledger-panel'));
}

/** @param {Record<string, any>|null} frame */
export function showLedger(frame) {
  const loss = frame?.loss ?? {};
  const hooks = frame?.missing_hooks ?? [];
  const key = JSON.stringify([frame === null, loss, hooks, frame?.sampling]);
  if (key === drawn) return;
  drawn = key;
  const names = [...new Set([...Object.keys(LOSSES), ...Object.keys(loss)])];
  chips(frame, names.filter((name) => loss[name] > 0), loss);
  setText(byId('ledger-intro'), intro(names.filter((name) => loss[name] > 0)));
  byId('ledger-list').replaceChildren(...names.map((name) => entry(name, loss[name] ?? 0)));
  byId('ledger-hooks').replaceChildren(...hooks.map((/** @type {string} */ hook) => make('li', '', String(hook))));
  byId('ledger-hooks-head').hidden = hooks.length === 0;
}

/** @param {Record<string, any>|null} frame @param {string[]} names @param {Record<string, number>} loss */
function chips(frame, names, loss) {
  const list = names.map((name) => {
    const chip = make('li', `chip ${lossOf(name).level}`, make('b', '', compact(loss[name])), ` ${lossOf(name).label}`);
    chip.title = `${count(loss[name])} ${lossOf(name).label}: ${lossOf(name).what}`;
    return chip;
  });
  if (frame?.sampling > 1) {
    const chip = make('li', 'chip amber', make('b', '', `1 in ${count(frame?.sampling)}`), ' sampled');
    chip.title = 'Only some faults are kept as records (stages, slowest list); totals and percentiles count every fault.';
    list.push(chip);
  }
  if (!names.length) list.unshift(make('li', frame ? 'chip green' : 'chip', make('b', '', frame ? '0' : '–'), ' lost'));
  byId('ledger-chips').replaceChildren(...list);
}

/** @param {string[]} names counters above zero */
function intro(names) {
  if (!names.length) return 'Nothing was lost: every fault that was seen is in the totals and in the records.';
  const inexact = names.filter((name) => !lossOf(name).exact).map((name) => lossOf(name).label);
  return inexact.length
    ? `Totals may fall short, because of: ${inexact.join(', ')}.`
    : 'Totals and percentiles are exact in spite of this: they come from histograms kept in the kernel.';
}

/** @param {string} name @param {number} number */
function entry(name, number) {
  const { label, what, remedy, level } = lossOf(name);
  return make('li', number ? level : 'none', make('b', 'figure', count(number)), make('div', '', make('strong', '', label), make('p', '', what), ...(number ? [make('p', 'remedy', remedy)] : [])));
}
