/**
 * What goes on in the studio, as it happens: one WebSocket for all components of a page, kept over page changes.
 * Subscribers are called with the state whenever something has changed, and when the connection is lost or back.
 */

import { address } from "./api.js";

/** @typedef {import("./types").Job} Job */
/**
 * @typedef {object} LiveState
 * @property {boolean | null} connected null before the first answer
 * @property {string[]} order ids of the jobs that have not ended, in the order of the queue
 * @property {Map<string, Job>} jobs those, and the ones that ended lately
 * @property {boolean} paused whether the queue is paused
 * @property {number} draft the version of the form's draft
 * @property {number} videos changes with the list of videos
 * @property {{id: string, url: string} | null} preview of the running job
 * @property {import("./types").Download[]} downloads models on their way from the hub
 */

// Streamlit's own words for a lost connection, a dialog that makes the page inert.
const DISCONNECTED = "[data-testid=stDialog]:has([data-testid=stErrorCodeBlock]) button[aria-label=Close]";
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 5000;

/** @type {LiveState} */
export const live = { connected: null, order: [], jobs: new Map(), paused: false, draft: 0, videos: 0, preview: null, downloads: [] };

/** @type {Set<(state: LiveState) => void>} */
const subscribers = new Set();
/** @type {WebSocket | null} */
let socket = null;
let retryMs = FIRST_RETRY_MS;

/** Call `told` with the state now and after every change; returns what ends that.
 * @param {(state: LiveState) => void} told @returns {() => void} */
export function subscribe(told) {
  subscribers.add(told);
  if (socket === null) connect();
  if (live.connected !== null) told(live);
  return () => {
    subscribers.delete(told);
  };
}

/** The job that renders, or stands still in the middle of a render. @returns {Job | undefined} */
export function runningJob() {
  return live.order.map((id) => live.jobs.get(id)).find((job) => job?.state === "running");
}

function tell() {
  for (const told of [...subscribers]) told(live);
}

/** The pages say themselves that the studio is away, and stay writable. */
function closeDialog() {
  if (live.connected === false) /** @type {HTMLElement | null} */ (document.querySelector(DISCONNECTED))?.click();
}
new MutationObserver(closeDialog).observe(document.body, { childList: true });

function connect() {
  const url = new URL(address("api/v1/live"));
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  let first = true;
  socket = new WebSocket(url);
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (first) live.jobs = new Map();
    first = false;
    retryMs = FIRST_RETRY_MS;
    take(message);
    live.connected = true;
    tell();
  };
  socket.onclose = () => {
    if (live.connected !== false) {
      live.connected = false;
      closeDialog();
      tell();
    }
    setTimeout(connect, retryMs);
    retryMs = Math.min(2 * retryMs, LAST_RETRY_MS);
  };
}

/** @param {any} message the fields that changed */
function take(message) {
  for (const job of message.jobs ?? []) live.jobs.set(job.id, job);
  for (const name of /** @type {const} */ (["order", "paused", "draft", "videos", "preview", "downloads"])) {
    if (name in message) /** @type {any} */ (live)[name] = message[name];
  }
}
