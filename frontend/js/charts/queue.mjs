// @ts-check
/** Depth of the userfaultfd queue over time: waiters that no handler has read yet, and all waiters. */
import { compact, count, scale } from '../format.mjs';
import { Calm, extent, layoutOf, phaseMarks, timeAxis, times, valueAxis, windowShape } from './axes.mjs';

/** @returns {import('./axes.mjs').Draw} */
export function queueChart() {
  const calm = new Calm();
  return (view, palette, widthPx) => {
    const base = layoutOf(palette);
    const marks = phaseMarks(view, palette, widthPx - base.margin.l - base.margin.r);
    const { pending, total } = view.series.queue;
    const found = extent([pending, total]);
    const [, high] = calm.fit(view.revision, 0, scale(Math.max(found?.[1] ?? 0, 4), compact).high);
    const x = times(view);
    const line = (/** @type {string} */ name, /** @type {(number|null)[]} */ y, /** @type {string} */ colour) => ({
      type: 'scatter', mode: 'lines', name, x, y, customdata: y.map(count), hovertemplate: '%{customdata}', connectgaps: false,
      line: { color: colour, width: 2 },
    });
    return {
      traces: [line('all waiters', total, palette.modes.uffd), line('unread', pending, palette.modes.exit)],
      layout: {
        ...base, margin: { ...base.margin, t: base.margin.t + marks.roomPx },
        xaxis: timeAxis(view, palette, { nticks: 4 }),
        yaxis: valueAxis(palette, scale(high, compact), { range: [0, high * 1.04] }),
        shapes: [windowShape(view, palette), ...marks.shapes], annotations: marks.annotations,
      },
      note: found ? undefined : 'No userfaultfd seen yet',
      summary: `userfaultfd queue over time. Now ${count(view.frame.queue?.pending)} unread of ${count(view.frame.queue?.total)} waiting.`,
    };
  };
}
