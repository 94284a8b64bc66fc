/** How a video was made, in words. */

import { QUALITY, ago, duration, size } from "./words.js";

/** @typedef {import("./types").Job} Job */

const MODES = /** @type {Record<string, string>} */ ({
  text_to_video: "Text to video",
  image_to_video: "Image to video",
  video_extension: "Extended",
});

/** @param {string} mode */
export const modeWords = (mode) => MODES[mode] ?? mode;

/** Name and value of each part, those that are of most use first. @param {Job} job @returns {[string, string][]} */
export function recipe(job) {
  const { request, plan, artifact } = job;
  const options = request.skyreels ?? {};
  const loras = (request.loras ?? []).map((/** @type {any} */ use) => `${use.name} ${[use.strength].flat().join(", ")}`);
  const draft = request.draft_steps ? ` (draft, stopped after ${request.draft_steps})` : "";
  /** @type {[string, any][]} */
  const rows = [
    ["Prompt", request.prompt],
    ["Avoid", request.negative_prompt],
    ["Model", plan.model_title],
    ["Quality", QUALITY[request.preset] ?? request.preset],
    ["Steps", `${plan.num_inference_steps}${draft}`],
    ["Guidance", plan.guidance_scale?.toFixed(1)],
    ["Seed", request.seed],
    ["Size", artifact && `${artifact.width} x ${artifact.height}`],
    ["Length", artifact && `${(artifact.frames / artifact.fps).toFixed(1)} s, ${artifact.frames} frames at ${artifact.fps} fps`],
    ["Starts from", modeWords(request.mode)],
    ["LoRAs", loras.join("; ")],
    ["Story", (options.storyboard ?? []).join(" / ")],
    ["Windows", plan.windows?.length > 1 ? plan.windows.length : ""],
    ["Noise on shared frames", options.addnoise_condition || ""],
    ["Flow shift", options.flow_shift],
    ["Async step delay", options.ar_step || ""],
    ["Made in", artifact?.render_s ? duration(artifact.render_s) : ""],
    ["Finished", job.finished_at ? ago(job.finished_at) : ""],
    ["File", artifact && size(artifact.bytes)],
  ];
  return rows.filter(([, value]) => value !== undefined && value !== null && value !== "").map(([name, value]) => [name, String(value)]);
}

/** A file name without its ending. @param {Job} job */
export const stem = (job) => job.title.toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 48).replace(/^-|-$/g, "") || job.id;
