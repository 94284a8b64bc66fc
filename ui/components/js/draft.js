/**
 * The form of the Create page: the fields of a request in REST's names, and what only the page needs (`variations`,
 * `replaces`: the id of the job that Generate replaces, `parent`: the job that it was made from). It is kept on the server
 * and, for the time that the server is away, in the browser, so that nothing typed is ever lost.
 */

import { address, ask, get, upload } from "./api.js";
import { live, subscribe } from "./live.js";
import { stem } from "./recipe.js";

/** @typedef {Record<string, any>} Form */

const LOCAL = "studio.form";
const SAVE_AFTER_MS = 400;
export const FRESH = { mode: "text_to_video", prompt: "", resolution: "540p", preset: "exact", fit: "crop", variations: 1 };

/** @type {Form} */
let form = { ...FRESH };
let version = -1; // of the server's; -1: not asked yet
let changed = false; // since it was saved last
/** @type {Form} */
let early = {}; // what was changed before the server's form was there
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
/** @type {Set<(form: Form, other: boolean) => void>} */
const subscribers = new Set();

/** The form as it stands. @returns {Form} */
export const current = () => form;

/** Call `told` after every change: `other` is true where it did not come from the form itself.
 * @param {(form: Form, other: boolean) => void} told @returns {() => void} */
export function onForm(told) {
  subscribers.add(told);
  return () => {
    subscribers.delete(told);
  };
}

/** Change fields; null and undefined take a field back to its default. @param {Form} fields */
export function change(fields) {
  if (version < 0) early = { ...early, ...fields };
  form = clean({ ...form, ...fields });
  keep();
  tell(false);
}

/** Put another form in its place. Resolves when the server has it. @param {Form} fields */
export async function replace(fields) {
  form = clean({ ...FRESH, ...fields });
  keep();
  tell(true);
  await save();
}

/** Read the form that was kept, once. */
export async function load() {
  if (version >= 0) return;
  const local = readLocal();
  if (local?.unsaved) form = clean(local.form); // what was typed while the studio was away is newer
  else if (local) form = clean(local.form);
  tell(true);
  try {
    const kept = await get("/draft");
    if (version >= 0) return; // another call was quicker
    version = kept.version;
    if (local?.unsaved) await save();
    else if (kept.form) {
      form = clean({ ...kept.form, ...early });
      tell(true);
    }
    early = {};
  } catch {
    version = -1; // it is asked again once the studio is back
  }
}

/** A form with the settings of a job. Its defaults stay defaults: they follow the model. @param {import("./types").Job} job
 * @param {{seed?: boolean}} [keep] whether the seed stays */
export function formOf(job, { seed = true } = {}) {
  const { kind: _kind, skyreels = {}, draft_steps: _draft, seconds, ...request } = job.request;
  const options = Object.fromEntries(
    Object.entries(skyreels).filter(([, value]) => value !== null && value !== false && !(Array.isArray(value) && !value.length)),
  );
  if (options.fidelity === "original") delete options.fidelity;
  return clean({
    ...request,
    ...(seconds && job.plan.num_frames ? { num_frames: job.plan.num_frames } : {}),
    seed: seed ? request.seed : null,
    ...(options.storyboard ? { story: true, prompt: [request.prompt, ...options.storyboard].join("\n") } : {}),
    skyreels: Object.keys(options).length ? options : null,
  });
}

/** Make the form one that continues a finished video. Throws where its file is missing. @param {import("./types").Job} job */
export async function extend(job) {
  const answer = await fetch(address(`api/v1/jobs/${job.id}/video`));
  if (!answer.ok) throw new Error("This video's file is missing; it was deleted outside the studio.");
  const sent = await upload(await answer.blob(), `${stem(job)}.mp4`);
  const material = { video: sent.id, image: null, end_image: null, story: null };
  await replace({ ...formOf(job, { seed: false }), ...material, mode: "video_extension", parent: job.id });
}

/** @param {Form} fields @returns {Form} with defaults in the place of what must not be empty */
function clean(fields) {
  const kept = Object.entries(fields).filter(([, value]) => value !== null && value !== undefined);
  return { ...FRESH, ...Object.fromEntries(kept) };
}

/** @param {boolean} other */
function tell(other) {
  for (const told of [...subscribers]) told(form, other);
}

function keep() {
  changed = true;
  writeLocal();
  clearTimeout(timer);
  timer = setTimeout(save, SAVE_AFTER_MS);
}

async function save() {
  clearTimeout(timer);
  const sent = form;
  try {
    ({ version } = await ask("PUT", "/draft", { body: { form: sent } }));
    if (sent === form) changed = false;
    writeLocal();
  } catch {
    /* the browser has it; it is sent once the studio is back */
  }
}

function writeLocal() {
  try {
    localStorage.setItem(LOCAL, JSON.stringify({ form, unsaved: changed }));
  } catch {
    /* no room, or a private window: the server has it */
  }
}

/** @returns {{form: Form, unsaved: boolean} | null} */
function readLocal() {
  try {
    const kept = JSON.parse(localStorage.getItem(LOCAL) ?? "null");
    return kept && typeof kept.form === "object" && kept.form ? kept : null;
  } catch {
    return null;
  }
}


// Another tab, or another browser of the same user, has changed it; or the studio is back.
subscribe(async () => {
  if (!live.connected) return;
  if (version < 0) await load();
  else if (changed) await save();
  else if (live.draft > version) {
    const kept = await get("/draft").catch(() => null);
    if (!kept || changed || kept.version <= version) return;
    version = kept.version;
    form = clean(kept.form ?? {});
    writeLocal();
    tell(true);
  }
});
