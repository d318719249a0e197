// @ts-check
/** Exits by reason over the window: returns of KVM_RUN to userspace above, the processor's own exits below. */
import { compact, count, duration, plain, scale } from '../format.mjs';
import { Calm, layoutOf, valueAxis } from './axes.mjs';

/** @typedef {import('./axes.mjs').Draw} Draw */
/** @typedef {import('../theme.mjs').Palette} Palette */
/** @typedef {{count: number, sum_ns: number, max_ns: number}} Exits */

/** More reasons than this go into one bar: of one kind alone, and of each when both are shown. */
const MOST_ALONE = 8;
const MOST_USERSPACE = 4;
const MOST_HARDWARE = 6;
/** Rows that a kind's bars are made for, so that few of them do not grow fat. */
const ROWS_ALONE = 6;
/** Height of a heading in rows. */
const HEADING = 1.15;
const NAME_CHARACTERS = 19;
const LEFT_PX = 118;

/** Why there are no hardware exits to show, in the words of the page. @type {Record<string, string>} */
const HARDWARE_ABSENT = {
  silent: 'Hardware exits: none, this KVM never reports any',
  unattached: 'Hardware exits are not traced here',
};

/** KVM_EXIT_IO → IO; the bare error stays what it is. @param {string} reason */
const short = (reason) => reason.replace(/^KVM_EXIT_/, '');

/** @param {string} reason */
const label = (reason) => plain(reason.length > NAME_CHARACTERS ? `${reason.slice(0, NAME_CHARACTERS - 1)}…` : reason);

/** @param {Exits[]} exits @returns {Exits} */
const together = (exits) => exits.reduce(
  (sum, one) => ({ count: sum.count + one.count, sum_ns: sum.sum_ns + one.sum_ns, max_ns: Math.max(sum.max_ns, one.max_ns) }), { count: 0, sum_ns: 0, max_ns: 0 },
);

/** Most frequent first, those beyond `most` together. @param {Record<string, Exits>} exits @param {number} most @returns {[string, Exits][]} */
function ranked(exits, most) {
  const sorted = Object.entries(exits).filter(([, one]) => one.count > 0).sort((a, b) => b[1].count - a[1].count);
  if (sorted.length <= most) return sorted;
  const rest = sorted.slice(most - 1);
  return [...sorted.slice(0, most - 1), [`${rest.length} others`, together(rest.map(([, one]) => one))]];
}

/** @param {Record<string, number>} exits @returns {Record<string, Exits>} */
const untimed = (exits) => Object.fromEntries(Object.entries(exits).map(([reason, number]) => [reason, { count: number, sum_ns: 0, max_ns: 0 }]));

/** @param {Exits} exits */
const mean = (exits) => duration(exits.sum_ns ? exits.sum_ns / exits.count : null); // none has ended yet

/** @param {Palette} palette @param {string} reason */
function colour(palette, reason) {
  if (reason.includes('EFAULT')) return palette.modes.exit;
  return reason.includes('MEMORY_FAULT') ? palette.modes.memory_fault : palette.modes.kernel;
}

/** The bars of one kind on axes of its own. @param {[string, Exits][]} bars @param {Palette} palette @param {string} axis '' or '2' @param {boolean} timed */
function trace(bars, palette, axis, timed) {
  return {
    type: 'bar', orientation: 'h', xaxis: `x${axis}`, yaxis: `y${axis}`, y: bars.map((_, row) => row), x: bars.map(([, one]) => one.count), width: 0.66,
    text: bars.map(([, one]) => (timed ? `${compact(one.count)} · ${mean(one)}` : compact(one.count))), textposition: 'outside', cliponaxis: false,
    textfont: { color: palette.text, size: 11.5 },
    customdata: bars.map(([reason, one]) => `${plain(reason)}: ${count(one.count)}${timed ? `<br>mean ${mean(one)}${one.max_ns ? `, longest so far ${duration(one.max_ns)}` : ''}` : ''}`),
    hovertemplate: '%{customdata}<extra></extra>',
    marker: { color: bars.map(([reason]) => (timed ? palette.resolvers.COPY : colour(palette, reason))) },
  };
}

/** @param {[string, Exits][]} bars @param {Palette} palette @param {number} rows @param {number[]} domain */
function reasonAxis(bars, palette, rows, domain) {
  return {
    domain, ticklabeloverflow: 'allow', range: [rows - 0.5, -0.5], tickmode: 'array', tickvals: bars.map((_, row) => row), ticktext: bars.map(([reason]) => label(short(reason))),
    fixedrange: true, ticklabelstandoff: 6, showgrid: false, zeroline: false, tickfont: { color: palette.text, size: 11 },
  };
}

/** A line of words above y, a share of the plot's height. @param {string} text @param {number} y @param {Palette} palette */
const heading = (text, y, palette) => ({ text, x: 0, xref: 'paper', xanchor: 'left', xshift: -LEFT_PX + 4, y, yref: 'paper', yanchor: 'bottom', showarrow: false, font: { color: palette.muted, size: 11.5 } });

/** @param {string} kind @param {[string, Exits][]} bars */
const spoken = (kind, bars) => `${kind}: ${bars.map(([reason, one]) => `${short(reason)} ${count(one.count)}`).join(', ') || 'none'}.`;

/** @returns {Draw} */
export function exitsChart() {
  const calm = [new Calm(5), new Calm(5)];
  /** @param {import('./axes.mjs').View} view @param {number} which @param {[string, Exits][]} bars */
  const reach = (view, which, bars) => calm[which].fit(view.revision, 0, scale(Math.max(bars[0]?.[1].count ?? 0, 4), compact).high)[1];
  return (view, palette) => {
    const { exits: known, hardware, hardware_state: state } = view.frame;
    const exits = known ?? {};
    const both = state === 'counted';
    const user = ranked(untimed(exits), both ? MOST_USERSPACE : MOST_ALONE);
    const hard = ranked(hardware ?? {}, MOST_HARDWARE);
    const high = reach(view, 0, user);
    const layout = { ...layoutOf(palette), hovermode: 'closest', dragmode: false };
    const absent = HARDWARE_ABSENT[state];
    const alone = {
      ...layout, margin: { l: LEFT_PX, r: 52, t: 24, b: absent ? 46 : 26 },
      xaxis: valueAxis(palette, scale(high, compact, 3), { range: [0, high] }),
      yaxis: reasonAxis(user, palette, Math.max(user.length, ROWS_ALONE), [0, 1]),
      annotations: [heading('to userspace', 1, palette), ...(absent ? [{ ...heading(absent, 0, palette), yanchor: 'top', yshift: -22 }] : [])],
    };
    if (!both) {
      return {
        traces: [trace(user, palette, '', false)], layout: alone,
        note: user.length ? undefined : known === null ? 'Exits of this part are not known: the recording holds only those of the whole' : 'No exits to userspace in this window', summary: `${spoken('Exits to userspace over the window', user)} ${absent ?? ''}`.trim(),
      };
    }
    const rows = 2 * HEADING + MOST_USERSPACE + MOST_HARDWARE;
    const [below, top] = [MOST_HARDWARE / rows, 1 - HEADING / rows];
    const hardHigh = reach(view, 1, hard);
    const quiet = { showgrid: false, showticklabels: false, zeroline: false, fixedrange: true };
    return {
      traces: [trace(user, palette, '', false), trace(hard, palette, '2', true)],
      layout: {
        ...layout, margin: { l: LEFT_PX, r: 104, t: 2, b: 6 },
        xaxis: { ...quiet, range: [0, high], anchor: 'y' },
        yaxis: reasonAxis(user, palette, MOST_USERSPACE, [below + HEADING / rows, top]),
        xaxis2: { ...quiet, range: [0, hardHigh], anchor: 'y2' },
        yaxis2: { ...reasonAxis(hard, palette, MOST_HARDWARE, [0, below]), anchor: 'x2' },
        annotations: [
          heading(`to userspace${user.length ? '' : ': none in this window'}`, top, palette),
          heading(hard.length ? 'hardware · count · mean time until the guest ran again' : 'hardware: none in this window', below, palette),
        ],
      },
      summary: `${spoken('Exits to userspace over the window', user)} ${spoken('Hardware exits', hard)}`,
    };
  };
}
