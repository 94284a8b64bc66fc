/**
 * Tells that all jobs are done: by a notification of the browser, by a sound, or both, as was asked for. The row of pages
 * imports it, so it listens on every page of the tab.
 */

import { subscribe } from "./live.js";

/** @typedef {"notify" | "sound"} Way */

const KEPT = "studio.bell";
const NOTES_HZ = [660, 880];
const NOTE_S = 0.18;

/** @type {Set<Way>} */
const ways = new Set(read());
let before = 0; // jobs that could still run, as they were seen last

/** Whether it tells in this way. @param {Way} way */
export const rings = (way) => ways.has(way) && (way === "sound" || window.Notification?.permission === "granted");

/** Whether the browser has notifications, and has not been told never to show those of the studio. */
export const canNotify = () => window.Notification !== undefined && window.Notification.permission !== "denied";

/** Tell in this way, or no longer; for a click: the browser may ask. Resolves to whether it does. @param {Way} way */
export async function toggle(way) {
  if (rings(way)) ways.delete(way);
  else {
    ways.add(way);
    if (way === "notify") await window.Notification?.requestPermission();
    else beep(); // a sample, which also lets the page make sounds later
  }
  try {
    localStorage.setItem(KEPT, JSON.stringify([...ways]));
  } catch {
    /* a private window: until it is closed */
  }
  return rings(way);
}

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
    return Array.isArray(kept) ? kept : [];
  } catch {
    return [];
  }
}

/** Two short notes. */
function beep() {
  const sound = new AudioContext();
  NOTES_HZ.forEach((hz, index) => {
    const [from, note, volume] = [sound.currentTime + index * NOTE_S, sound.createOscillator(), sound.createGain()];
    note.frequency.value = hz;
    volume.gain.setValueAtTime(0.0001, from);
    volume.gain.exponentialRampToValueAtTime(0.2, from + 0.02);
    volume.gain.exponentialRampToValueAtTime(0.0001, from + NOTE_S);
    note.connect(volume).connect(sound.destination);
    note.start(from);
    note.stop(from + NOTE_S);
    if (index === NOTES_HZ.length - 1) note.onended = () => sound.close();
  });
}

subscribe((state) => {
  if (!state.connected) return;
  const left = state.order.filter((id) => state.jobs.get(id)?.state !== "paused").length;
  if (before && !left) {
    if (rings("notify")) new Notification("All videos are done", { tag: "studio-done" });
    if (rings("sound")) beep();
  }
  before = left;
});
