/** From the form to a request: only what the mode and the model use, and only what is not their default. */

/** @typedef {import("./draft.js").Form} Form */
/**
 * @typedef {object} Model a model that is installed
 * @property {string} id @property {string} title @property {string} about @property {string[]} modes
 * @property {number} fps @property {number} num_inference_steps @property {number} guidance_scale @property {number} flow_shift
 * @property {number} base_num_frames @property {number} overlap_history @property {boolean} diffusion_forcing
 * @property {boolean} denoises @property {boolean} many_windows @property {boolean} end_image @property {string} family
 * @property {string[]} prompts @property {boolean} bundled
 */

/** The modes in the order of their tabs. A story is a video from text whose lines are its scenes. */
export const MODES = [
  { id: "text", mode: "text_to_video", label: "Text", symbol: "title", inputs: [] },
  { id: "image", mode: "image_to_video", label: "Image", symbol: "image", inputs: ["image", "end_image"] },
  { id: "extend", mode: "video_extension", label: "Extend", symbol: "playlist_add", inputs: ["video", "end_image"] },
  { id: "story", mode: "text_to_video", label: "Story", symbol: "view_timeline", inputs: [] },
];

const PLAIN = ["prompt", "negative_prompt", "orientation", "resolution", "fps", "num_inference_steps", "guidance_scale", "seed", "preset", "fit", "crop_position", "model"];
const WINDOWS = ["base_num_frames", "overlap_history"];
const FORCING = [...WINDOWS, "addnoise_condition", "flow_shift", "ar_step", "causal_block_size", "causal_attention", "batch_guidance", "fidelity"];
const DENOISING = ["flow_shift", "batch_guidance", "fidelity"];
export const DEFAULT_FRAMES = 64;
export const LEAST_FRAMES = 16;
const MOST_FRAMES = 128; // of one scene
const LONGEST = 1457; // the studio's limit

/** The tab that the form shows. @param {Form} form */
export function tabOf(form) {
  if (form.mode === "text_to_video") return form.story ? "story" : "text";
  return MODES.find((row) => row.mode === form.mode)?.id ?? "text";
}

/** The settings of SkyReels that a model uses. @param {Model} model */
export function optionsOf(model) {
  if (model.diffusion_forcing) return FORCING;
  if (model.many_windows) return WINDOWS;
  return model.denoises ? DENOISING : [];
}

/** The scenes of a story, one a line. @param {Form} form @returns {string[]} */
export const scenesOf = (form) => String(form.prompt).split("\n").map((line) => line.trim()).filter(Boolean);

/** The longest video that the slider offers, in frames. @param {Model} model */
export const longest = (model) => (model.many_windows ? 4 * MOST_FRAMES : MOST_FRAMES);

/** How many frames a story has: a whole window for the first scene, and for each further one what a window adds.
 * @param {Form} form @param {Model} model */
export function storyFrames(form, model) {
  const window = form.skyreels?.base_num_frames ?? model.base_num_frames;
  const overlap = form.skyreels?.overlap_history ?? model.overlap_history;
  return Math.min(LONGEST, window + Math.max(0, scenesOf(form).length - 1) * (window - overlap));
}

/** The body of POST /jobs or /plan. @param {Form} form @param {Model} model @returns {Record<string, any>} */
export function requestOf(form, model) {
  const tab = tabOf(form);
  /** @type {Record<string, any>} */
  const request = { mode: form.mode };
  for (const name of PLAIN) if (!isEmpty(form[name])) request[name] = form[name];
  for (const name of MODES.find((row) => row.id === tab)?.inputs ?? []) if (form[name]) request[name] = form[name];
  request.num_frames = form.num_frames ?? DEFAULT_FRAMES;
  if (form.loras?.length) request.loras = form.loras;
  const used = optionsOf(model);
  const options = Object.fromEntries(Object.entries(form.skyreels ?? {}).filter(([name, value]) => used.includes(name) && !isEmpty(value)));
  if (tab === "story") {
    const [first = "", ...further] = scenesOf(form);
    request.prompt = first;
    request.num_frames = storyFrames(form, model);
    if (further.length && model.many_windows) options.storyboard = further;
  }
  if (Object.keys(options).length) request.skyreels = options;
  return request;
}

/** @param {unknown} value */
const isEmpty = (value) => value === null || value === undefined || value === "" || value === false;

/** What is still to be filled in, as the user would say it; null where nothing is. @param {Form} form */
export function missing(form) {
  const tab = tabOf(form);
  if (tab === "image" && !form.image) return { field: "image", words: "add a first frame" };
  if (tab === "extend" && !form.video) return { field: "video", words: "add a video to extend" };
  if ((tab === "text" || tab === "story") && !String(form.prompt).trim()) return { field: "prompt", words: "write a prompt" };
  return null;
}
