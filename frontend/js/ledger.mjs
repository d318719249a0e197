// @ts-check
/** The loss ledger: a row of chips always in sight, and what each means in a panel. */
import { byId, make, setText } from './dom.mjs';
import { compact, count, NONE } from './format.mjs';
import { startPanel } from './popup.mjs';
import { lossOf, LOSSES } from './words.mjs';

let drawn = '';

/** Opens and closes the panel, also by Escape and by a click elsewhere. */
export function startLedger() {
  startPanel(byId('ledger-button'), byId('ledger-panel'));
}

/** @param {Record<string, any>|null} frame @param {boolean} [known] whether data come: else nobody knows that nothing is lost */
export function showLedger(frame, known = frame !== null) {
  const loss = frame?.loss ?? {};
  const hooks = frame?.missing_hooks ?? [];
  const key = JSON.stringify([known, loss, hooks, frame?.sampling]);
  if (key === drawn) return;
  drawn = key;
  const names = [...new Set([...Object.keys(LOSSES), ...Object.keys(loss)])];
  const above = names.filter((name) => loss[name] > 0);
  chips(frame, above, loss, known);
  setText(byId('ledger-intro'), above.length || known ? intro(above) : 'Not known: no data come.');
  byId('ledger-list').replaceChildren(...names.map((name) => entry(name, loss[name] || (known ? 0 : null))));
  byId('ledger-hooks').replaceChildren(...hooks.map((/** @type {string} */ hook) => make('li', '', String(hook))));
  byId('ledger-hooks-head').hidden = hooks.length === 0;
}

/** @param {Record<string, any>|null} frame @param {string[]} names @param {Record<string, number>} loss @param {boolean} known */
function chips(frame, names, loss, known) {
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
  if (!names.length) list.unshift(make('li', known ? 'chip green' : 'chip', make('b', '', known ? '0' : NONE), ' lost'));
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

/** @param {string} name @param {number|null} number null: not known */
function entry(name, number) {
  const { label, what, remedy, level } = lossOf(name);
  return make('li', number ? level : 'none', make('b', 'figure', count(number)), make('div', '', make('strong', '', label), make('p', '', what), ...(number ? [make('p', 'remedy', remedy)] : [])));
}
