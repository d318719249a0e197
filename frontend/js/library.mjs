// @ts-check
/** The page of all recordings: look at one, play it, take it away, delete it, or choose two to compare. */
import { address, get, lineOf, post, remove } from './api.mjs';
import { startThemeButton } from './controls.mjs';
import { byId, make, setAttribute, setText } from './dom.mjs';
import { bytes, compact, count, moment, position } from './format.mjs';
import { downloads, Recorder, summaryUrl, vmNames } from './recorder.mjs';
import { startTheme } from './theme.mjs';
import { startZoneButton, zoneName } from './zone.mjs';

/** @typedef {import('./recorder.mjs').Recording} Recording */

startTheme(() => {});
startThemeButton(() => {});
startZoneButton(() => recorder.refresh());

/** Rows by id: kept, so that the focus and an open selection survive the next list. @type {Map<string, HTMLTableRowElement>} */
const rows = new Map();
/** @type {{a: string, b: string}} */
const pair = { a: '', b: '' };
/** @type {Recording[]} */
let list = [];

const recorder = new Recorder({ onList: show });
get('vms').then((answer) => recorder.offer(answer?.vms ?? [], ''), () => {});

/** @param {Recording[]} recordings @param {Record<string, any>} limits */
function show(recordings, limits) {
  list = [...recordings].sort((one, other) => other.started_wall_ms - one.started_wall_ms);
  byId('empty').hidden = list.length > 0;
  byId('library').hidden = list.length === 0;
  const known = new Set(list.map(({ id }) => id));
  for (const [id, row] of rows) {
    if (known.has(id)) continue;
    row.remove();
    rows.delete(id);
  }
  for (const side of /** @type {const} */ (['a', 'b'])) if (!known.has(pair[side])) pair[side] = '';
  const body = byId('rows');
  list.forEach((recording, index) => {
    const row = rows.get(recording.id) ?? build(recording.id);
    if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
    fill(row, recording);
  });
  const total = list.reduce((sum, one) => sum + (one.bytes ?? 0), 0);
  setText(byId('list-count'), `${count(list.length)}, ${bytes(total)} in all${limitsOf(limits)}`);
  byId('list-count').title = limits.directory ?? '';
  showPair();
}

/** What is deleted by itself, in words. @param {Record<string, any>} limits */
function limitsOf({ max_bytes: size, max_age_ns: ageNs }) {
  const parts = [size && `beyond ${bytes(size)}`, ageNs && `after ${Math.round(ageNs / 86_400e9)} days`].filter(Boolean);
  return parts.length ? ` · the oldest are deleted ${parts.join(' and ')}` : '';
}

/** @param {string} id @returns {HTMLTableRowElement} */
function build(id) {
  const row = document.createElement('tr');
  row.dataset.id = id;
  for (const name of ['pick', 'pick', 'name', 'when', 'number', 'number', 'number', 'vms', 'state', 'files', 'actions']) row.append(make('td', name));
  const { cells } = row;
  (/** @type {const} */ (['a', 'b'])).forEach((side, index) => {
    const radio = /** @type {HTMLInputElement} */ (make('input'));
    Object.assign(radio, { type: 'radio', name: `pair-${side}`, value: id });
    radio.addEventListener('change', () => {
      pair[side] = id;
      showPair();
    });
    cells[index].append(radio);
  });
  const link = make('a', 'link');
  link.setAttribute('href', summaryUrl(id));
  const report = make('a', 'link', 'Migration report');
  report.setAttribute('href', `migration.html?${new URLSearchParams({ recording: id })}`);
  const below = make('small');
  below.append(report, make('span'));
  cells[2].append(link, below);
  const play = button('Replay', () => act(async () => {
    await post('replay', { id });
    location.assign('./');
  }));
  const stop = button('Stop', () => act(async () => {
    await post(`recordings/${encodeURIComponent(id)}/stop`);
    await recorder.refresh();
  }));
  cells[10].append(play, stop, button('Delete', () => confirmDelete(id)));
  rows.set(id, row);
  return row;
}

/** @param {string} label @param {() => void} onClick */
function button(label, onClick) {
  const made = make('button', '', label);
  setAttribute(made, 'type', 'button');
  made.addEventListener('click', onClick);
  return made;
}

/** @param {HTMLTableRowElement} row @param {Recording} recording */
function fill(row, recording) {
  const { id, name, state } = recording;
  const finished = state === 'finished';
  const { cells } = row;
  for (const [index, side] of [[0, 'A'], [1, 'B']]) {
    const radio = /** @type {HTMLInputElement} */ (cells[Number(index)].firstElementChild);
    radio.disabled = !finished;
    setAttribute(radio, 'aria-label', `${name} as ${side}`);
  }
  const [link, below] = /** @type {HTMLElement[]} */ ([...cells[2].children]);
  const [report, note] = /** @type {HTMLElement[]} */ ([...below.children]);
  setText(link, name || id);
  link.classList.toggle('off', !finished);
  if (finished) setAttribute(link, 'href', summaryUrl(id));
  else link.removeAttribute('href');
  report.hidden = !finished || !recording.migrations;
  setText(note, recording.note ?? '');
  note.title = recording.note ?? '';
  below.hidden = report.hidden && !recording.note;
  setText(cells[3], moment(recording.started_wall_ms, zoneName(recording.started_wall_ms) !== zoneName(Date.now()))); // the button names the zone of now
  setText(cells[4], position(recording.duration_ns));
  setText(cells[5], compact(recording.records));
  cells[5].title = count(recording.records);
  setText(cells[6], bytes(recording.bytes));
  setText(cells[7], vmNames(recording.vms));
  cells[7].title = vmNames(recording.vms);
  setText(cells[8], state);
  setAttribute(cells[8], 'class', `state ${state}`);
  if (finished && !cells[9].firstElementChild) cells[9].append(...downloads(name || id, (format) => address(`recordings/${encodeURIComponent(id)}/faults`, { format }), true));
  const [play, stop, bin] = /** @type {HTMLButtonElement[]} */ ([...cells[10].children]);
  play.hidden = state === 'recording';
  play.disabled = !finished;
  stop.hidden = state !== 'recording';
  bin.disabled = state === 'recording';
  for (const [made, verb] of /** @type {[HTMLElement, string][]} */ ([[play, 'Replay'], [stop, 'Stop'], [bin, 'Delete']])) setAttribute(made, 'aria-label', `${verb} ${name || id}`);
}

function showPair() {
  const swap = /** @type {HTMLButtonElement} */ (byId('pair-swap'));
  const go = /** @type {HTMLButtonElement} */ (byId('pair-go'));
  for (const side of /** @type {const} */ (['a', 'b'])) {
    const chosen = list.find(({ id }) => id === pair[side]);
    const text = byId(`pair-${side}`);
    setText(text, chosen ? chosen.name || chosen.id : 'choose one below');
    text.classList.toggle('none', !chosen);
    for (const [id, row] of rows) {
      const radio = /** @type {HTMLInputElement} */ (row.cells[side === 'a' ? 0 : 1].firstElementChild);
      radio.checked = id === pair[side];
    }
  }
  swap.disabled = !pair.a && !pair.b;
  go.disabled = !pair.a || !pair.b || pair.a === pair.b;
  setText(go, pair.a && pair.a === pair.b ? 'Choose two different ones' : 'Compare A with B');
}

byId('pair-swap').addEventListener('click', () => {
  [pair.a, pair.b] = [pair.b, pair.a];
  showPair();
});
byId('pair-go').addEventListener('click', () => location.assign(`compare.html?${new URLSearchParams(pair)}`));

/** @param {() => Promise<void>} work */
async function act(work) {
  setText(byId('notice-error'), '');
  try {
    await work();
  } catch (error) {
    setText(byId('notice-error'), lineOf(error));
  }
}

const dialog = /** @type {HTMLDialogElement} */ (byId('confirm'));
let doomed = '';

/** @param {string} id */
function confirmDelete(id) {
  const recording = list.find((one) => one.id === id);
  if (!recording) return;
  doomed = id;
  setText(byId('confirm-title'), `Delete “${recording.name || id}”?`);
  setText(byId('confirm-text'), `${count(recording.records)} faults over ${position(recording.duration_ns)}, ${bytes(recording.bytes)}. It cannot be brought back.`);
  setText(byId('confirm-error'), '');
  dialog.showModal();
  byId('confirm-no').focus();
}

byId('confirm-no').addEventListener('click', () => dialog.close());
byId('confirm-yes').addEventListener('click', async () => {
  try {
    await remove(`recordings/${encodeURIComponent(doomed)}`);
  } catch (error) {
    setText(byId('confirm-error'), lineOf(error));
    return;
  }
  const next = rows.get(doomed)?.nextElementSibling ?? rows.get(doomed)?.previousElementSibling;
  dialog.close();
  await recorder.refresh();
  /** @type {HTMLElement|null|undefined} */ (next?.querySelector('td.actions button:last-child'))?.focus();
});
