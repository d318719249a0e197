// @ts-check
/** A button that opens a panel over the page; Escape and a click elsewhere close it. */
import { setAttribute } from './dom.mjs';

/** @param {HTMLElement} button @param {HTMLElement} panel */
export function startPanel(button, panel) {
  const open = (/** @type {boolean} */ is) => {
    panel.hidden = !is;
    setAttribute(button, 'aria-expanded', String(is));
  };
  button.addEventListener('click', () => open(panel.hidden));
  addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || panel.hidden) return;
    open(false);
    button.focus();
  });
  addEventListener('pointerdown', (event) => {
    if (!(event.target instanceof Node) || panel.contains(event.target) || button.contains(event.target)) return;
    open(false);
  });
}
