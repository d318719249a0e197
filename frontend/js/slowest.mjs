// @ts-check
/** The slowest faults of the window, each with its stages as a small stacked bar. */
import { byId, make, setAttribute, setText } from './dom.mjs';
import { address, clock, count, duration, NONE } from './format.mjs';
import { LONG_NS, openFaults } from './open.mjs';
import { whoServed } from './threads.mjs';
import { STAGES, stageMeaning } from './words.mjs';

const PRESENCE = { missing: 'was missing', minor: 'was in the page cache', 'write-protected': 'was write-protected', mapped: 'was mapped' };

const MOST = 10;

/** The strip is as long as the fault, against the slowest. @param {HTMLElement} cell @param {Record<string, any>} fault @param {number} longestNs */
function drawStages(cell, fault, longestNs) {
  const strip = /** @type {HTMLElement} */ (cell.firstElementChild ?? cell.appendChild(make('span', 'strip', ...STAGES.map((stage) => make('i', `stage-${stage}`)))));
  const stages = fault.stages_ns ?? {};
  const total = STAGES.reduce((sum, stage) => sum + (stages[stage] ?? 0), 0) || 1;
  strip.classList.toggle('open', Boolean(fault.open));
  strip.style.width = `${Math.max(4, (fault.latency_ns / longestNs) * 100).toFixed(1)}%`;
  STAGES.forEach((stage, index) => {
    const width = `${(((stages[stage] ?? 0) / total) * 100).toFixed(2)}%`;
    const part = /** @type {HTMLElement} */ (strip.children[index]);
    if (part.style.width !== width) part.style.width = width;
  });
  const words = fault.open ? 'still open' : STAGES.filter((stage) => stages[stage] !== undefined).map((stage) => `${stage} ${duration(stages[stage])} (${stageMeaning(fault.mode, stage)})`).join('\n');
  if (strip.title !== words) strip.title = words;
  setAttribute(strip, 'aria-label', words);
  setAttribute(strip, 'role', 'img');
}

/** What was wanted of the page, and what KVM said of it: "write, slot 1, was missing, PRIVATE". @param {Record<string, any>} fault */
function pageWords(fault) {
  const words = [fault.access, typeof fault.memslot === 'number' ? `slot ${fault.memslot}` : '', PRESENCE[/** @type {keyof typeof PRESENCE} */ (fault.presence)] ?? ''];
  if (fault.mode === 'memory_fault') words.push(...(fault.exit_flags ?? []));
  return words.filter(Boolean).join(', ') || '–';
}

/** The mark of what KVM did not say itself. @param {HTMLElement} cell @param {Record<string, any>} fault */
function drawPage(cell, fault) {
  const [words, mark] = cell.children.length ? [...cell.children] : [cell.appendChild(make('span')), cell.appendChild(make('em', 'inferred'))];
  const inferred = fault.inferred ?? [];
  setText(/** @type {HTMLElement} */ (words), fault.open ? NONE : pageWords(fault));
  setText(/** @type {HTMLElement} */ (mark), inferred.length ? 'inferred' : '');
  const title = inferred.length ? `KVM_RUN ended with ${fault.error ?? 'an error'}${fault.mode === 'exit' ? ', which says nothing else' : ''}; inferred by the probes: ${inferred.join(', ')}` : '';
  if (cell.title !== title) cell.title = title;
}

export class SlowestTable {
  constructor() {
    this.body = /** @type {HTMLTableSectionElement} */ (byId('slowest').querySelector('tbody'));
    for (let row = 0; row < MOST; row += 1) this.body.append(make('tr', '', ...Array.from({ length: 11 }, () => make('td'))));
    for (const row of this.body.rows) {
      ['number', 'vm', 'number', 'mode', 'number', 'stages', 'text', 'text handler', 'mono address', 'mono address', 'address page'].forEach((name, index) => { row.cells[index].className = name; });
    }
    const toggle = /** @type {HTMLInputElement} */ (byId('addresses'));
    toggle.addEventListener('change', () => byId('slowest').classList.toggle('with-addresses', toggle.checked));
    toggle.checked = false;
  }

  /** @param {Record<string, any>} frame @param {number} clockMs */
  show(frame, clockMs) {
    const open = openFaults(frame).filter((fault) => fault.age_ns >= LONG_NS).map((fault) => ({ ...fault, open: true, mode: 'open', time_ns: fault.since_ns, latency_ns: fault.age_ns }));
    const faults = [...open, ...(frame.slowest ?? [])].slice(0, MOST);
    const longestNs = Math.max(1, ...faults.map((/** @type {{latency_ns: number}} */ fault) => fault.latency_ns));
    const names = new Map((frame.vms ?? []).map((/** @type {{id: string, name: string}} */ vm) => [vm.id, vm.name]));
    const rows = [...this.body.rows];
    rows.forEach((row, index) => {
      const fault = faults[index];
      row.classList.toggle('blank', !fault);
      if (fault) this.#fill(row, fault, clockMs, longestNs, names, frame);
    });
    setText(byId('slowest-note'), faults.length ? '' : 'No fault record in this window');
    setText(byId('slowest-open'), open.length > MOST ? `${count(open.length)} open, the oldest ten first` : open.length ? `${count(open.length)} open, first` : '');
  }

  /** @param {HTMLTableRowElement} row @param {Record<string, any>} fault @param {number} clockMs @param {number} longestNs @param {Map<string, string>} names @param {Record<string, any>} frame */
  #fill(row, fault, clockMs, longestNs, names, frame) {
    const cells = row.cells;
    setText(cells[0], clock(fault.time_ns / 1e6 + clockMs));
    setText(cells[1], names.get(fault.vm) ?? NONE);
    setText(cells[2], String(fault.vcpu ?? NONE));
    setText(cells[3], fault.mode);
    cells[3].className = fault.open ? 'open' : `mode mode-${fault.mode}`;
    row.title = fault.open ? 'This fault has not ended: its vCPU stands still in it. Its mode, stages and address are known when it ends.' : '';
    setText(cells[4], duration(fault.latency_ns));
    drawStages(cells[5], fault, longestNs);
    setText(cells[6], fault.resolver ?? NONE);
    const { text, title } = whoServed(frame, fault);
    setText(cells[7], text);
    if (cells[7].title !== title) cells[7].title = title;
    setText(cells[8], address(fault.gpa));
    setText(cells[9], address(fault.hva));
    drawPage(cells[10], fault);
  }
}
