// @ts-check
/** Draws charts with Plotly: only those on screen, one per animation frame, the newest state only. */
import { latch, make, setAttribute, setText } from './dom.mjs';
import { palette } from './theme.mjs';

const CONFIG = { displayModeBar: false, displaylogo: false, responsive: false, doubleClick: false, showTips: false };

/** A clock on an axis needs so much room, px. */
const CLOCK_PX = 62;

/** As many clocks on the axes as have room. @param {Record<string, any>} layout @param {number} widthPx */
function thinOut(layout, widthPx) {
  const room = widthPx - (layout.margin?.l ?? 0) - (layout.margin?.r ?? 0);
  for (const [name, axis] of Object.entries(layout)) {
    if (!name.startsWith('xaxis') || axis.type !== 'date') continue;
    const [from, to] = axis.domain ?? [0, 1];
    axis.nticks = Math.max(2, Math.min(axis.nticks, Math.floor(((to - from) * room) / CLOCK_PX)));
  }
}

/**
 * @typedef {object} Chart
 * @property {string} name  of its measure in the Performance API, `draw:name`
 * @property {HTMLElement} plot  the element Plotly draws into
 * @property {import('./charts/axes.mjs').Draw} draw  gets the width and height of the plot, px
 * @property {(view: any) => unknown} input  the chart is drawn anew when this changes
 * @property {number} [everyMs]  not more often than this
 * @property {(point: any) => void} [onHover]  gets Plotly's point under the pointer, or null
 */

export class Painter {
  /** @param {Chart[]} charts */
  constructor(charts) {
    this.charts = charts.map((chart) => ({
      everyMs: 0, ...chart, drawn: /** @type {unknown} */ (undefined), atMs: -Infinity, visible: false, width: 0, height: 0, listens: false, held: false,
      zoom: /** @type {Record<string, any[]>} */ ({}), revision: '',
    }));
    this.view = null;
    this.palette = palette();
    this.paint = latch(() => this.#paint());
    this.#watch();
  }

  /** @param {import('./charts/axes.mjs').View} view */
  show(view) {
    this.view = view;
    this.paint();
  }

  /** Everything is to be drawn anew; `colours` when the theme changed. */
  refresh(colours = false) {
    if (colours) this.palette = palette();
    for (const chart of this.charts) [chart.drawn, chart.atMs] = [undefined, -Infinity];
    this.paint();
  }

  #watch() {
    const find = (/** @type {Element} */ element) => this.charts.find((chart) => chart.plot === element);
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const chart = find(entry.target);
        if (chart) chart.visible = entry.isIntersecting;
      }
      this.paint();
    }, { rootMargin: '120px' });
    const sized = new ResizeObserver((entries) => {
      for (const entry of entries) {
        const chart = find(entry.target);
        if (!chart) continue;
        const [width, height] = [Math.floor(entry.contentRect.width), Math.floor(entry.contentRect.height)];
        if (width === chart.width && height === chart.height) continue;
        Object.assign(chart, { width, height, drawn: undefined, atMs: -Infinity });
      }
      this.paint();
    });
    for (const { plot } of this.charts) {
      seen.observe(plot);
      sized.observe(plot);
    }
  }

  #paint() {
    const { view } = this;
    const Plotly = /** @type {any} */ (globalThis).Plotly;
    if (!view || !Plotly) return;
    const now = performance.now();
    const due = this.charts
      .filter((chart) => chart.visible && !chart.held && chart.width > 0 && chart.drawn !== chart.input(view) && now - chart.atMs >= chart.everyMs)
      .sort((a, b) => a.atMs - b.atMs);
    if (!due.length) return;
    const chart = due[0];
    const figure = chart.draw(view, this.palette, chart.width, chart.height);
    Object.assign(figure.layout, { width: chart.width, height: chart.height, autosize: false });
    thinOut(figure.layout, chart.width);
    if (chart.revision !== view.revision) Object.assign(chart, { zoom: {}, revision: view.revision });
    for (const [axis, range] of Object.entries(chart.zoom)) Object.assign(figure.layout[axis] ?? {}, { range });
    Plotly.react(chart.plot, figure.traces, figure.layout, CONFIG);
    if (!chart.listens) this.#listen(chart);
    this.#describe(chart, figure);
    [chart.drawn, chart.atMs] = [chart.input(view), now];
    performance.measure(`draw:${chart.name}`, { start: now });
    performance.clearMeasures(`draw:${chart.name}`);
    if (due.length > 1) this.paint();
  }

  /** A chart stays as it is while the pointer holds it: a drag across a redrawing chart is lost. A double click ends a zoom: the chart follows the present again, not the moment at which it was first drawn. @param {any} chart */
  #listen(chart) {
    chart.listens = true;
    chart.plot.addEventListener('pointerdown', () => { chart.held = true; }, { capture: true });
    for (const name of ['pointerup', 'pointercancel']) {
      addEventListener(name, () => { chart.held = false; }, { capture: true });
    }
    chart.plot.on('plotly_doubleclick', () => {
      Object.assign(chart, { zoom: {}, drawn: undefined });
      this.paint();
    });
    // Plotly's own uirevision forgets a zoom when the range under it moves on, and time moves on every second.
    chart.plot.on('plotly_relayout', (/** @type {Record<string, any>} */ change) => {
      for (const [key, low] of Object.entries(change)) {
        const axis = key.match(/^([xy]axis\d*)\.range\[0\]$/)?.[1];
        if (axis) chart.zoom[axis] = [low, change[`${axis}.range[1]`]];
      }
    });
    if (!chart.onHover) return;
    chart.plot.on('plotly_hover', (/** @type {any} */ event) => chart.onHover(event.points[0]));
    chart.plot.on('plotly_unhover', () => chart.onHover(null));
  }

  /** @param {Chart & {zoom: object}} chart @param {import('./charts/axes.mjs').Figure} figure */
  #describe(chart, figure) {
    setAttribute(chart.plot, 'aria-label', figure.summary);
    chart.plot.closest('.card')?.classList.toggle('zoomed', Object.keys(chart.zoom).length > 0);
    const legend = chart.plot.closest('.card')?.querySelector('.legend.live');
    if (legend && figure.legend && legend.textContent !== figure.legend.join('')) {
      legend.replaceChildren(...figure.legend.map((mode) => make('li', `mode mode-${mode}`, mode)));
    }
    const note = chart.plot.parentElement?.querySelector('.note');
    if (note) setText(note, figure.note ?? '');
  }
}
