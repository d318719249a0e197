// @ts-check
/** Which keys are the page's own. */

/** Whether this is the space bar meant for the page: not for what has the focus, and not held down. @param {KeyboardEvent} event */
export function isSpace(event) {
  if (event.key !== ' ' || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return false;
  const target = /** @type {HTMLElement} */ (event.target);
  return !target.closest('button, select, summary, a, textarea, dialog, input:not([type=radio], [type=range])');
}
