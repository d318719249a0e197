// @ts-check
/** The WebSocket: connects, subscribes, and comes back by itself with backoff. */

import { parse } from './foreign.mjs';

const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 8_000;
/** Nothing for this long on an open socket means that the other end is gone without saying so. */
const SILENCE_MS = 6_000;

/**
 * @typedef {{vm: string, window: string}} Subscription  `vm` empty: the server shows the busiest
 */
export class Stream {
  /**
   * @param {Subscription} subscription
   * @param {(event: Record<string, any>) => void} onEvent gets S4 messages and `{type: "connection", …}`
   */
  constructor(subscription, onEvent) {
    this.subscription = subscription;
    this.onEvent = onEvent;
    this.retryMs = FIRST_RETRY_MS;
    /** @type {WebSocket|null} */
    this.socket = null;
    this.timer = 0;
    this.silence = 0;
    addEventListener('online', () => this.#connect());
    this.#connect();
  }

  /** @param {Subscription} subscription */
  subscribe(subscription) {
    this.subscription = subscription;
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(subscription));
    else this.#connect();
  }

  #connect() {
    clearTimeout(this.timer);
    this.#drop();
    const url = new URL('api/v1/live', document.baseURI);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    url.search = new URLSearchParams(this.subscription).toString();
    const socket = new WebSocket(url);
    this.socket = socket;
    socket.onmessage = (message) => this.#receive(message.data);
    socket.onclose = () => this.#retry();
    this.#listen();
  }

  /** @param {unknown} data */
  #receive(data) {
    this.#listen();
    let event;
    try {
      event = parse(String(data));
    } catch {
      event = { type: 'error', error: { code: 'unreadable', message: 'The server sent a message that is not JSON.' } };
    }
    this.retryMs = FIRST_RETRY_MS;
    this.onEvent(event);
  }

  #listen() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.#retry(), SILENCE_MS);
  }

  #drop() {
    clearTimeout(this.silence);
    if (!this.socket) return;
    this.socket.onclose = null;
    this.socket.onmessage = null;
    this.socket.close();
    this.socket = null;
  }

  #retry() {
    this.#drop();
    const waitMs = this.retryMs * (0.8 + 0.4 * Math.random());
    this.retryMs = Math.min(this.retryMs * 2, LAST_RETRY_MS);
    this.onEvent({ type: 'connection', status: 'lost', retryAtMs: performance.now() + waitMs });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#connect(), waitMs);
  }
}
