// @ts-check
/** JSON from the server. Names in it come from strangers, and some characters reorder or hide what stands beside them. */

/** Controls, bidi marks and what has no width, but for line ends, tabs and the joiners that letters and emoji need. */
const STEERING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]/g;
const REPLACEMENT = '\ufffd';

/** JSON text as a value whose strings hold nothing of that kind. Raises SyntaxError. @param {string} text @returns {any} */
export function parse(text) {
  const value = JSON.parse(text);
  // Nearly always there is none, and then nobody walks through the numbers of 4,096 vCPUs.
  return text.includes('\\u') || text.search(STEERING) >= 0 ? cleaned(value) : value;
}

/** @param {any} value @returns {any} */
function cleaned(value) {
  if (typeof value === 'string') return value.replace(STEERING, REPLACEMENT);
  if (Array.isArray(value)) return value.map(cleaned);
  if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key.replace(STEERING, REPLACEMENT), cleaned(inner)]));
  return value;
}
