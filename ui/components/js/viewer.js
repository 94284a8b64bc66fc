/** One video, large: player, what can be done with it, how it was made, and its relatives. */

import { address, get, post } from "./api.js";
import { h, icon, patch } from "./dom.js";
import { extend, formOf, replace } from "./draft.js";
import { live } from "./live.js";
import { keepMarks, note, stars } from "./marks.js";
import { Player } from "./player.js";
import { recipe, stem } from "./recipe.js";

/** @typedef {import("./types").Job} Job */
/** @typedef {import("./types").VideoCard} Card */
/** @typedef {import("./dom.js").Child} Child */
/**
 * @typedef {object} Page what the viewer asks of the page around it
 * @property {() => void} close
 * @property {(by: number) => void} step to a neighbour
 * @property {() => {at: number, count: number}} where in the list, from 0; -1: not in it
 * @property {(id: string) => void} show another video
 * @property {(id: string, favourite: boolean) => void} favourite
 * @property {(ids: string[]) => void} remove
 * @property {() => void} create go to the page Create
 * @property {(words: string) => void} say
 * @property {(act: () => Promise<unknown>) => Promise<void>} act say it where that is refused
 */

export const FORMATS = /** @type {Record<string, string>} */ ({
  mp4: "MP4 (H.264)",
  gif: "GIF",
  webm: "WebM (VP9)",
  webp: "Animated WebP",
  av1: "MP4 (AV1)",
  prores: "ProRes 422 HQ (MOV)",
  frames: "PNG frames (ZIP)",
  still: "Still of this frame (PNG)",
});
const WIDTHS = [1920, 1280, 960, 640, 480, 320];
const EXPORTS = 5;

export class Viewer {
  /** @param {HTMLElement} place @param {Page} page */
  constructor(place, page) {
    this.place = place;
    this.page = page;
    this.head = document.createElement("div");
    this.stage = document.createElement("div");
    this.panel = document.createElement("div");
    [this.head.className, this.stage.className, this.panel.className] = ["head row", "stage", "panel"];
    place.append(this.head, this.stage, this.panel);
    this.player = new Player(this.stage, {
      picture: () => this.fault(),
      actions: () => [this.control("photo_camera", "Save frame", () => this.saveFrame()), this.control("fullscreen", "Full screen", () => this.player.toggleFullScreen())],
    });
    this.player.video.addEventListener("error", () => {
      this.gone = Boolean(this.player.source);
      this.player.render();
    });
    this.id = "";
    /** @type {Job | null} */
    this.job = null;
    this.gone = false; // its file
    this.error = "";
    /** @type {{title: string, cards: Card[]}[]} */
    this.relatives = [];
    /** @type {Job[]} */
    this.exports = [];
    this.format = "gif";
    this.width = "";
  }

  /** @param {string} id "" closes it */
  async open(id) {
    this.place.hidden = !id;
    if (id === this.id) return;
    [this.id, this.job, this.gone, this.error, this.relatives, this.exports] = [id, null, false, "", [], []];
    if (!id) {
      this.player.open(null);
      return;
    }
    try {
      const job = await get(`/jobs/${id}`);
      if (id !== this.id) return;
      this.job = job;
      const { width = 16, height = 9, frames = 1, fps = 24 } = job.artifact ?? {};
      this.place.style.setProperty("--ratio", String(width / height));
      if (job.artifact) {
        const [url, poster] = [address(`api/v1/jobs/${id}/video`), address(`api/v1/jobs/${id}/thumbnail`)];
        this.player.open({ url, poster, frames, fps, alt: job.title });
      } else this.player.open(null);
    } catch (error) {
      if (id !== this.id) return;
      this.player.open(null);
      this.error = error instanceof Error ? error.message : String(error);
    }
    this.render();
    /** @type {HTMLElement | null} */ (this.head.querySelector("h1"))?.focus();
    await this.find(id);
  }

  /** Read what belongs to it. @param {string} id */
  async find(id) {
    const { job } = this;
    if (!job) return;
    const none = { videos: [] };
    const [parent, children, batch, exports] = await Promise.all([
      job.parent ? get(`/jobs/${job.parent}`).catch(() => null) : null,
      get("/videos", { parent: id, limit: 12 }).catch(() => none),
      job.batch ? get("/videos", { batch: job.batch, limit: 13 }).catch(() => none) : none,
      get("/jobs", { parent: id, kind: "export", limit: EXPORTS }).catch(() => ({ jobs: [] })),
    ]);
    if (id !== this.id) return;
    this.exports = exports.jobs;
    const madeFrom = parent?.state === "succeeded" && parent.artifact ? [cardOf(parent)] : [];
    const title = parent?.request.draft_steps ? "Finished from the draft" : job.request.mode === "video_extension" ? "Extended from" : "Variation of";
    this.relatives = [
      { title, cards: madeFrom },
      { title: "Made from this", cards: children.videos },
      { title: "Same batch", cards: batch.videos.filter((/** @type {Card} */ card) => card.id !== id) },
    ].filter(({ cards }) => cards.length);
    this.render();
  }

  /** Something has changed in the studio. */
  follow() {
    if (!this.id || !this.job) return;
    this.exports = this.exports.map((job) => live.jobs.get(job.id) ?? job);
    this.render();
  }

  // --- what it does ---

  /** @param {Record<string, any>} changes */
  mark(changes) {
    const { job } = this;
    if (job) this.page.act(() => keepMarks(job, changes, () => this.render()));
  }

  heart() {
    if (!this.job) return;
    this.job.favourite = !this.job.favourite;
    this.page.favourite(this.job.id, this.job.favourite);
    this.render();
  }

  /** @param {boolean} favourite it was changed elsewhere, or that was refused @param {string} id */
  hearted(id, favourite) {
    if (this.job?.id !== id) return;
    this.job.favourite = favourite;
    this.render();
  }

  saveFrame() {
    const { job } = this;
    if (job) this.page.act(() => this.player.saveFrame(stem(job)));
  }

  use() {
    const { job } = this;
    if (!job) return;
    this.page.act(async () => {
      await replace(formOf(job));
      this.page.create();
    });
  }

  extend() {
    const { job } = this;
    if (!job || job.request.draft_steps) return;
    this.page.act(async () => {
      await extend(job);
      this.page.create();
    });
  }

  vary() {
    const { job } = this;
    if (!job) return;
    this.page.act(async () => {
      await post(`/jobs/${job.id}/again`);
      this.page.say("A variation with another seed is in the queue.");
    });
  }

  finish() {
    const { job } = this;
    if (!job) return;
    this.page.act(async () => {
      await post(`/jobs/${job.id}/promote`);
      this.page.say("The rest of this draft is in the queue.");
    });
  }

  export() {
    const { job } = this;
    if (!job) return;
    this.page.act(async () => {
      const request = { kind: "export", job: job.id, format: this.format, width: this.width ? Number(this.width) : null };
      const made = await post("/jobs", this.format === "still" ? { ...request, frame: this.player.frame } : request);
      this.exports = [made, ...this.exports].slice(0, EXPORTS);
      this.render();
    });
  }

  /** @param {string} key @returns {boolean} */
  key(key) {
    const { frame, source, video } = this.player;
    const keys = /** @type {Record<string, () => void>} */ ({
      Escape: () => this.page.close(),
      j: () => this.page.step(1),
      k: () => this.page.step(-1),
      h: () => this.heart(),
      e: () => this.extend(),
      v: () => this.vary(),
      s: () => this.saveFrame(),
      Delete: () => this.page.remove([this.id]),
    });
    const atEnd = !source || (video.paused && frame >= source.frames - 1);
    if (key === "ArrowLeft" && (!source || (video.paused && frame === 0))) keys[key] = () => this.page.step(-1);
    if (key === "ArrowRight" && atEnd) keys[key] = () => this.page.step(1);
    if (!keys[key]) return this.player.key(key);
    keys[key]?.();
    return true;
  }

  // --- how it looks ---

  /** @param {string} symbol @param {string} label @param {() => void} act @param {Record<string, any>} [more] */
  control(symbol, label, act, more = {}) {
    return h("button", { class: "button round", "aria-label": label, title: label, onclick: act, disabled: !this.job, ...more }, icon(symbol));
  }

  /** What is said in the place of the picture. @returns {Child[]} */
  fault() {
    if (this.error) return [h("div", { class: "fault" }, icon("error"), h("b", null, "This video cannot be shown"), h("span", null, this.error))];
    if (this.job && !this.job.artifact) return [h("div", { class: "fault" }, icon("movie"), h("b", null, "This video is not finished"))];
    if (!this.gone) return [];
    return [h("div", { class: "fault" }, icon("broken_image"), h("b", null, "Files missing"), h("span", null, "This video's folder was deleted outside the studio."))];
  }

  render() {
    if (!this.id) return;
    const { at, count } = this.page.where();
    const title = this.job?.title ?? (this.error ? "Video" : " ");
    this.place.setAttribute("aria-label", title);
    patch(this.head, [
      this.control("arrow_back", "Back to the videos", () => this.page.close(), { disabled: false }),
      h("h1", { tabindex: -1, title }, title),
      h("span", { class: "muted small count" }, at < 0 ? "" : `${at + 1} of ${count.toLocaleString("en")}`),
      this.control("navigate_before", "Previous video (K)", () => this.page.step(-1), { disabled: at <= 0 }),
      this.control("navigate_next", "Next video (J)", () => this.page.step(1), { disabled: at < 0 || at >= count - 1 }),
    ]);
    this.player.render();
    patch(this.panel, this.job ? this.about(this.job) : []);
  }

  /** @param {Job} job @returns {Child[]} */
  about(job) {
    const mark = (/** @type {Record<string, any>} */ changes) => this.mark(changes);
    const action = (/** @type {string} */ symbol, /** @type {string} */ label, /** @type {() => void} */ act, more = {}) =>
      h("button", { class: "button outlined", onclick: act, ...more }, icon(symbol), label);
    return [
      h(
        "div",
        { key: "actions", class: "actions" },
        job.request.draft_steps
          ? h("button", { class: "button primary", onclick: () => this.finish() }, icon("auto_awesome"), "Finish this draft")
          : h("button", { class: "button primary", onclick: () => this.use() }, icon("tune"), "Use these settings"),
        job.request.draft_steps && action("tune", "Use these settings", () => this.use()),
        action("favorite", job.favourite ? "Remove favourite" : "Favourite", () => this.heart(), { class: `button outlined heart ${job.favourite ? "on" : ""}`, "aria-pressed": String(job.favourite) }),
        h("a", { class: "button outlined", href: address(`api/v1/jobs/${job.id}/video`, { download: true }), download: true }, icon("download"), "Download"),
        action("casino", "Variation", () => this.vary()),
        !job.request.draft_steps && action("playlist_add", "Extend", () => this.extend()),
        action("delete", "Delete", () => this.page.remove([job.id]), { class: "button outlined bad" }),
      ),
      h(
        "div",
        { key: "marks", class: "row spread" },
        stars(job.rating, "", mark),
        h(
          "button",
          { class: `button ${job.approved ? "tinted" : "outlined"}`, "aria-pressed": String(job.approved), onclick: () => mark({ approved: !job.approved }), title: "Approved videos cannot be deleted" },
          icon("verified"),
          job.approved ? "Approved" : "Approve",
        ),
      ),
      note(job, mark),
      this.exporting(job),
      h("h2", { key: "how", class: "section" }, "How it was made"),
      h("dl", { key: "recipe", class: "recipe" }, recipe(job).map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value)))),
      this.relatives.map(({ title, cards }) =>
        h(
          "div",
          { key: `relatives ${title}`, class: "relatives" },
          h("h2", { class: "section" }, title),
          h("div", { class: "strip" }, cards.map((card) => this.relative(card))),
        ),
      ),
      h("details", { key: "raw" }, h("summary", null, "Recipe as JSON"), h("pre", { tabindex: 0 }, JSON.stringify({ request: job.request, job: { ...job, request: undefined } }, null, 1))),
    ];
  }

  /** @param {Card} card */
  relative(card) {
    const words = `${card.title}, seed ${card.seed}`;
    return h(
      "button",
      { key: card.id, class: "relative", title: words, "aria-label": words, onclick: () => this.page.show(card.id) },
      h("img", { src: address(`api/v1/jobs/${card.id}/thumbnail`), alt: "" }),
      card.draft && h("span", { class: "glass" }, "Draft"),
    );
  }

  /** @param {Job} job */
  exporting(job) {
    const width = job.artifact?.width ?? 0;
    const pick = (/** @type {"format" | "width"} */ name) => (/** @type {Event} */ event) => {
      this[name] = /** @type {HTMLSelectElement} */ (event.target).value;
      this.render();
    };
    return h(
      "div",
      { key: "export", class: "export" },
      h("h2", { class: "section" }, "Export"),
      h(
        "div",
        { class: "row" },
        h("select", { "aria-label": "Format", value: this.format, onchange: pick("format") }, Object.entries(FORMATS).map(([value, title]) => h("option", { value }, title))),
        h(
          "select",
          { "aria-label": "Width", value: this.width, onchange: pick("width") },
          h("option", { value: "" }, `${width} wide`),
          WIDTHS.filter((one) => one < width).map((one) => h("option", { value: one }, `${one} wide`)),
        ),
        h("button", { class: "button outlined", onclick: () => this.export() }, icon("ios_share"), "Export"),
      ),
      h("div", { class: "exports", role: "status" }, this.exports.map((one) => exportRow(one))),
    );
  }

  close() {
    this.player.close();
  }
}

/** A link to the file once it is there, else how far it is or why there is none. @param {Job} job */
export function exportRow(job) {
  const title = job.title.replace("Export as ", "");
  const made = job.artifact;
  if (made) {
    return h("a", { key: job.id, class: "button outlined", href: address(`api/v1/jobs/${job.id}/file`), download: true }, icon("download"), `Save ${title}, ${made.width} x ${made.height}`);
  }
  const done = job.progress ? `, ${Math.round(100 * job.progress.fraction)} %` : "";
  const state = job.error && job.state !== "queued" ? job.error.message : `${job.state}${done}`;
  return h("p", { key: job.id, class: "muted small" }, `${title}: ${state}`);
}

/** @param {Job} job @returns {Card} */
export function cardOf(job) {
  const { width = 16, height = 9, frames = 0, fps = 24, bytes = 0 } = job.artifact ?? {};
  const { id, title, favourite, parent, batch, collections, rating, approved } = job;
  return {
    ...{ id, title, favourite, parent, batch, collections, rating, approved, width, height, frames, fps, bytes },
    seconds: frames / fps,
    draft: job.request.draft_steps ?? null,
    model: job.plan.model,
    model_title: job.plan.model_title,
    mode: job.request.mode,
    finished_at: job.finished_at ?? job.created_at,
    seed: job.request.seed,
  };
}
