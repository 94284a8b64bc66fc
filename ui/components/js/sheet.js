/**
 * The contact sheet: the variations of one batch side by side, moving in step; the best of them are chosen, and drafts among
 * them are finished from their saved states.
 */

import { address, get, post } from "./api.js";
import { h, icon, patch } from "./dom.js";
import { live } from "./live.js";
import { calm } from "./theme.js";
import { counted, duration, estimate } from "./words.js";

/** @typedef {import("./types").Job} Job */
/** @typedef {import("./dom.js").Child} Child */

/** What may differ between variations, by its name in a request or among its SkyReels settings. */
const NAMES = /** @type {Record<string, string>} */ ({
  prompt: "Prompt",
  seed: "Seed",
  guidance_scale: "Guidance",
  num_inference_steps: "Steps",
  num_frames: "Frames",
  fps: "Frames per second",
  preset: "Quality",
  model: "Model",
  orientation: "Shape",
  resolution: "Size",
  negative_prompt: "Avoid",
  flow_shift: "Motion",
});

export class Sheet {
  /** @param {HTMLElement} place @param {{close: () => void, say: (words: string) => void}} page */
  constructor(place, page) {
    this.place = place;
    this.page = page;
    this.batch = "";
    /** @type {Job[]} in the order in which they were made */
    this.jobs = [];
    /** @type {Set<string>} ids */
    this.chosen = new Set();
    /** @type {Record<string, number>} seconds to finish a draft */
    this.times = {};
    this.version = -1;
  }

  /** @param {string} batch */
  async open(batch) {
    if (batch !== this.batch) [this.jobs, this.times] = [[], {}];
    if (batch !== this.batch) this.chosen.clear();
    this.batch = batch;
    await this.ask();
  }

  /** Something has changed in the studio. */
  follow() {
    for (const [index, job] of this.jobs.entries()) this.jobs[index] = live.jobs.get(job.id) ?? job;
    for (const job of live.jobs.values()) {
      if (job.batch === this.batch && !this.jobs.some((one) => one.id === job.id)) this.jobs = sorted([...this.jobs, job]);
    }
    if (this.version !== live.videos) this.ask();
  }

  async ask() {
    this.version = live.videos;
    const { jobs } = await get("/jobs", { batch: this.batch, limit: 100 }).catch(() => ({ jobs: this.jobs }));
    this.jobs = sorted(jobs);
    for (const job of this.ready()) {
      if (this.times[job.id]) continue;
      this.times[job.id] = 1;
      get(`/jobs/${job.id}/promote`).then(
        (plan) => {
          this.times[job.id] = plan.forecast_s;
          this.render();
        },
        () => {},
      );
    }
    this.render();
  }

  /** The variations themselves, without the jobs that finish drafts. */
  get variations() {
    return this.jobs.filter((job) => !(/** @type {any} */ (job.plan).done_steps));
  }

  /** The job that finishes a draft. @param {Job} draft */
  finishing(draft) {
    return this.jobs.findLast((job) => job.parent === draft.id && /** @type {any} */ (job.plan).done_steps && job.state !== "failed" && job.state !== "cancelled");
  }

  /** Drafts that can be finished. */
  ready() {
    return this.variations.filter((job) => job.state === "succeeded" && job.request.draft_steps && !this.finishing(job));
  }

  render() {
    const variations = this.variations;
    const drafts = variations.filter((job) => job.request.draft_steps);
    const noun = drafts.length === variations.length && drafts.length ? "draft" : "variation";
    const steps = drafts[0]?.request.draft_steps;
    patch(this.place, [
      h(
        "div",
        { key: "head", class: "row spread head" },
        h("div", { class: "row" }, h("h1", { class: "title" }, counted(variations.length, noun)), h("span", { class: "muted" }, steps ? `${steps} steps each` : "")),
        h(
          "div",
          { class: "row" },
          h("span", { class: "muted small keys" }, "Pick with ", h("kbd", null, "1"), ` to `, h("kbd", null, String(Math.min(9, variations.length))), ", play all with ", h("kbd", null, "Space")),
          h("button", { class: "button", onclick: () => this.page.close() }, icon("close"), "Close"),
        ),
      ),
      h("div", { key: "tiles", class: "tiles", role: "group", "aria-label": "Variations" }, ...variations.map((job, index) => this.tile(job, index))),
      this.table(variations),
      this.chosen.size > 0 && this.bar(),
    ]);
    this.play();
  }

  /** @param {Job} job @param {number} index */
  tile(job, index) {
    const finishing = this.finishing(job);
    const shown = finishing?.state === "succeeded" ? finishing : job;
    const chosen = this.chosen.has(job.id);
    const { width, height, fps } = job.plan;
    const percent = Math.floor(100 * ((finishing ?? job).progress?.fraction ?? 0));
    const state =
      finishing?.state === "succeeded" ? "Finished" : finishing ? `Finishing ${percent} %` : job.state === "succeeded" ? "" : job.state === "running" ? `${percent} %` : job.state;
    const seconds = shown.artifact ? duration(shown.artifact.frames / shown.artifact.fps) : duration(job.plan.total_frames / fps);
    return h(
      "div",
      { key: job.id, class: `tile ${chosen ? "on" : ""}` },
      h(
        "button",
        { class: "shown", style: `aspect-ratio: ${width} / ${height}`, "aria-pressed": String(chosen), "aria-label": `${index + 1}: ${this.label(job)}${state ? `, ${state}` : ""}`, onclick: () => this.choose(job) },
        shown.artifact
          ? h("video", { key: shown.id, src: address(`app/static/media/${shown.id}/video.mp4`), poster: address(`app/static/media/${shown.id}/thumbnail.jpg`), muted: true, loop: true, playsinline: true, preload: "auto" })
          : live.preview?.id === job.id
            ? h("img", { key: "preview", src: address(live.preview.url), alt: "" })
            : h("span", { key: "none", class: "waiting-tile" }, icon(job.state === "failed" ? "error" : "schedule")),
        h("span", { class: "tick" }, chosen && icon("check")),
        state && h("span", { class: "glass state" }, state),
      ),
      h("div", { class: "row under" }, h("kbd", { class: chosen ? "on" : "" }, index + 1), h("span", { class: "clip" }, this.label(job)), h("span", { class: "space" }), h("span", { class: "muted" }, seconds)),
    );
  }

  /** What is special about a variation. @param {Job} job */
  label(job) {
    const names = Object.keys(this.differences()).filter((name) => name !== "Seed");
    const words = names.map((name) => String(this.differences()[name]?.[this.variations.indexOf(job)] ?? ""));
    return words.join(", ") || `seed ${job.request.seed}`;
  }

  /** The settings that are not the same in all variations, with the value of each. @returns {Record<string, unknown[]>} */
  differences() {
    const rows = this.variations.map(({ request }) => ({ ...request, ...request.skyreels }));
    const found = Object.entries(NAMES).map(([field, name]) => [name, rows.map((row) => row[field] ?? "default")]);
    return Object.fromEntries(found.filter(([, values]) => new Set(/** @type {unknown[]} */ (values)).size > 1));
  }

  /** @param {Job[]} variations */
  table(variations) {
    const rows = Object.entries(this.differences());
    if (!rows.length) return null;
    return h(
      "div",
      { key: "table", class: "card differs" },
      h(
        "table",
        null,
        h("thead", null, h("tr", null, h("th", { scope: "col" }, "What differs"), ...variations.map((_, index) => h("th", { scope: "col" }, h("kbd", null, index + 1))))),
        h("tbody", null, ...rows.map(([name, values]) => h("tr", null, h("th", { scope: "row" }, name), ...values.map((value) => h("td", { class: name !== "Seed" && value !== values[0] ? "other" : "" }, String(value)))))),
      ),
    );
  }

  bar() {
    const chosen = this.variations.filter((job) => this.chosen.has(job.id));
    const ready = this.ready().filter((job) => this.chosen.has(job.id));
    const time = ready.reduce((sum, job) => sum + (this.times[job.id] ?? 0), 0);
    return h(
      "div",
      { key: "bar", class: "card bar row" },
      ...chosen.slice(0, 4).map((job) => job.artifact && h("img", { src: address(`app/static/media/${job.id}/thumbnail.jpg`), alt: "" })),
      h("div", null, h("b", null, `${chosen.length} selected`), h("div", { class: "small muted" }, chosen.map((job) => this.variations.indexOf(job) + 1).join(", "), "; seeds are kept")),
      h("span", { class: "space" }),
      h("button", { class: "button outlined", onclick: () => this.act(() => Promise.all(chosen.map((job) => post(`/jobs/${job.id}/favourite`)))) }, icon("favorite"), "Favourite"),
      ready.length > 0 && h("button", { class: "button primary", onclick: () => this.finish(ready) }, icon("auto_awesome"), `Finish ${ready.length} selected · about ${estimate(time)}`),
    );
  }

  /** @param {Job[]} drafts */
  finish(drafts) {
    this.act(async () => {
      for (const draft of drafts) await post(`/jobs/${draft.id}/promote`);
      this.chosen.clear();
      await this.ask();
    });
  }

  /** @param {() => Promise<unknown>} act */
  async act(act) {
    try {
      await act();
    } catch (error) {
      this.page.say(error instanceof Error ? error.message : String(error));
    }
    this.render();
  }

  /** @param {Job} job */
  choose(job) {
    if (!this.chosen.delete(job.id)) this.chosen.add(job.id);
    this.render();
  }

  get videos() {
    return [.../** @type {NodeListOf<HTMLVideoElement>} */ (this.place.querySelectorAll(".tile video"))];
  }

  /** Start what stands still because it is new. */
  play() {
    if (calm()) return;
    for (const video of this.videos) if (video.paused && !video.dataset.held) video.play().catch(() => {});
  }

  /** Play all from their beginning, in step, or hold all. */
  toggle() {
    const playing = this.videos.some((video) => !video.paused);
    for (const video of this.videos) {
      if (playing) {
        video.dataset.held = "yes";
        video.pause();
      } else {
        delete video.dataset.held;
        video.currentTime = 0;
        video.play().catch(() => {});
      }
    }
  }

  /** @param {string} key @returns {boolean} */
  key(key) {
    const job = /^[1-9]$/.test(key) ? this.variations[Number(key) - 1] : undefined;
    if (job) this.choose(job);
    else if (key === " ") this.toggle();
    else if (key === "Escape") this.page.close();
    else return false;
    return true;
  }
}

/** @param {Job[]} jobs in the order in which they were made */
const sorted = (jobs) => [...jobs].sort((one, other) => (one.id < other.id ? -1 : 1));
