// @ts-check
/** The REST API: JSON in and out, and errors as the server words them. */

import { parse } from './foreign.mjs';

/** What the server refused, or that it did not answer. `status` 0: no answer. */
export class ApiFailure extends Error {
  /** @param {number} status @param {string} message @param {string} [hint] @param {string} [code] */
  constructor(status, message, hint = '', code = '') {
    super(message);
    this.name = 'ApiFailure';
    this.status = status;
    this.hint = hint;
    this.code = code;
  }

  /** One line for a person. */
  get line() {
    return this.hint ? `${this.message} ${this.hint}` : this.message;
  }
}

/** @param {string} path relative to /api/v1/ @param {Record<string, string|number|null|undefined>} [query] null and '' are left out */
export function address(path, query = {}) {
  const values = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== null && value !== undefined && value !== '') values.set(name, String(value));
  const text = values.toString();
  return `api/v1/${path}${text ? `?${text}` : ''}`;
}

/**
 * @param {string} method @param {string} url relative to the page @param {unknown} [body]
 * @returns {Promise<any>} the JSON answer, null if the answer has none. Rejects with ApiFailure.
 */
async function ask(method, url, body) {
  /** @type {RequestInit} */
  const options = { method };
  if (body !== undefined) Object.assign(options, { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } });
  let answer;
  try {
    answer = await fetch(url, options);
  } catch {
    throw new ApiFailure(0, 'The server does not answer.', 'Is exitscope still running?');
  }
  const text = await answer.text();
  let data = null;
  try {
    data = text ? parse(text) : null;
  } catch { /* not JSON: only its status counts */ }
  if (answer.ok) return data;
  const { message, hint, code } = data?.error ?? {};
  throw new ApiFailure(answer.status, message ?? `The server answered with status ${answer.status}.`, hint ?? '', code ?? '');
}

/** @param {string} path @param {Record<string, string|number|null|undefined>} [query] */
export const get = (path, query) => ask('GET', address(path, query));

/** @param {string} path @param {unknown} [body] */
export const post = (path, body) => ask('POST', address(path), body);

/** @param {string} path */
export const remove = (path) => ask('DELETE', address(path));

/** The line to show for anything caught. @param {unknown} error */
export function lineOf(error) {
  return error instanceof ApiFailure ? error.line : String(error);
}
