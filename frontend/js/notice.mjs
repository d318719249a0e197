// @ts-check
/** The badge in the header, the line under it, and the page in place of charts when there is nothing to chart. */
import { byId, make, setAttribute, setText } from './dom.mjs';
import { age, vcpuCount } from './format.mjs';
import { gapOf, shownVm } from './gaps.mjs';

/**
 * @param {import('./status.mjs').Status} status @param {import('./state.mjs').State} state @param {boolean} all whether the list of all VMs is on show
 * @param {string} trouble  what is wrong with the page itself
 */
export function showStatus(status, state, all, trouble) {
  const badge = byId('badge');
  setAttribute(badge, 'data-kind', status.kind);
  setText(byId('badge-label'), status.label); // the live region: read out only when the state changes
  const late = status.ageNs !== null && state.vm !== null && ['stale', 'offline', 'waiting'].includes(status.kind);
  setText(byId('badge-age'), late ? `data ${age(status.ageNs)} old` : '');
  setAttribute(byId('notice'), 'data-kind', status.kind);
  const text = status.sentence || about(state, all);
  setText(byId('notice-text'), text);
  byId('notice-text').title = text;
  byId('notice').classList.toggle('gap', !status.sentence && !all && gapOf(state.frame && shownVm(state.frame)) !== null);
  setText(byId('notice-command'), status.command);
  byId('notice-command').hidden = !status.command;
  setText(byId('notice-error'), trouble || (state.error ? `${state.error.message} ${state.error.hint ?? ''}` : ''));
  document.body.classList.toggle('dim', status.dim);
  showBanner(state.frame?.source);
}

/** A replay is told from this host at a glance, also while it is paused, stale or without its server. @param {Record<string, any>|undefined} source */
function showBanner(source) {
  const replayed = source?.kind === 'replay';
  const banner = byId('replay-banner');
  document.body.classList.toggle('replayed', replayed);
  banner.hidden = !replayed;
  if (!replayed) return;
  const where = [source?.host, source?.kernel && `Linux ${source.kernel}`].filter(Boolean).join(', ');
  const text = `: a recording${where ? ` made on ${where}` : ''}, not this host now.`;
  if (banner.childElementCount) setText(/** @type {Element} */ (banner.lastElementChild), text);
  else banner.append(make('b', '', 'REPLAY'), make('span', '', text));
}

/** What is on show, when all is well. @param {import('./state.mjs').State} state @param {boolean} all */
function about(state, all) {
  const frame = state.frame;
  if (!frame) return '';
  const vm = shownVm(frame);
  const host = [frame.source?.host, frame.source?.kernel && `Linux ${frame.source.kernel}`, frame.source?.only && `only VMs ${frame.source.only}`].filter(Boolean).join(', ');
  if (all) {
    const running = (frame.vms ?? []).filter((/** @type {{state: string}} */ each) => each.state !== 'gone');
    const missing = running.filter((/** @type {any} */ each) => gapOf(each)?.counted === false).length;
    return `${running.length} running VMs together${missing ? `, ${missing} of them not counted` : ''}${host ? ` · on ${host}` : ''}`;
  }
  if (!vm) return host;
  const gap = gapOf(vm);
  if (gap) return `${vm.name} is ${gap.state}. ${gap.why}`;
  const gone = vm.state === 'gone' ? 'This VM has ended; its last totals stay for ten minutes. ' : '';
  return `${gone}${vm.name} · ${[vm.vmm, `pid ${vm.pid}`, vcpuCount(vm.vcpus)].filter(Boolean).join(' · ')}${host ? ` · on ${host}` : ''}`;
}

/** @type {Record<string, {title: string, text: string, commands: [string, string][]}>} */
const EMPTY = {
  connecting: { title: 'Connecting', text: 'The page asks the server for its first frame.', commands: [] },
  offline: { title: 'The server does not answer', text: 'The page tries again by itself; no need to reload. If the server was stopped, start it:',
    commands: [['exitscope run', 'collector and server'], ['exitscope serve', 'the server alone']] },
  waiting: { title: 'Waiting for the collector', text: 'The collector is the half that needs privileges. Start it in another terminal; the page goes on by itself:',
    commands: [['sudo exitscope collect', 'on this host'], ['exitscope doctor', 'what this host can show, and what to do about what it cannot']] },
  uncounted: { title: 'This VM is not counted', text: 'More vCPUs run on this host than the collector was told to follow. Start it with room for all of them:',
    commands: [['sudo exitscope collect --max-vcpus N', 'N: vCPUs of all VMs together']] },
  empty: { title: 'No VM yet', text: 'The collector is watching. As soon as any VM on this host faults, it appears here. To see something now:',
    commands: [['exitscope demo', 'a guest that faults, in both modes'], ['exitscope guest --vcpus 4 --mode uffd --pages 64000', 'one workload of your choice']] },
};
let drawn = '';

/** Shows the page for "nothing to chart", or the charts. @param {import('./status.mjs').Kind|'uncounted'} kind @param {boolean} hasVm @param {string} reason */
export function showEmpty(kind, hasVm, reason) {
  const which = hasVm ? '' : kind in EMPTY ? kind : 'empty';
  const key = `${which}|${reason}`;
  if (key === drawn) return;
  drawn = key;
  byId('empty').hidden = !which;
  byId('charts').hidden = Boolean(which);
  if (!which) return;
  const { title, text, commands } = EMPTY[which];
  setText(byId('empty-title'), title);
  setText(byId('empty-reason'), ['waiting', 'empty', 'uncounted'].includes(which) ? reason : '');
  setText(byId('empty-text'), text);
  byId('empty-commands').replaceChildren(...commands.flatMap(([command, what]) => [make('dt', '', make('code', '', command)), make('dd', '', what)]));
}
