/**
 * The stage of the Create page: what is being made, or the video that was made last, large and in one place; its timeline
 * and controls; the takes below. The space is the same in every state, so nothing moves.
 */

import { AWAY, address, ask, get, inputPreview, post, upload } from "./api.js";
import { change, current, extend, formOf, onForm, replace } from "./draft.js";
import { h, icon, patch } from "./dom.js";
import { onKeys } from "./keys.js";
import { live, runningJob, subscribe } from "./live.js";
import { Player } from "./player.js";
import { stem } from "./recipe.js";
import { saveAs } from "./save.js";
import { Sheet } from "./sheet.js";
import { rootOf } from "./theme.js";
import { about, ago, clock, duration, estimate, range } from "./words.js";

/** @typedef {import("./types").Job} Job */
/** @typedef {import("./dom.js").Child} Child */
/**
 * @typedef {object} Way out of a failure
 * @property {string} id @property {string} label @property {string} about @property {string} time
 * @property {string} press what the button says @property {string} symbol @property {() => unknown} act
 */

const TAKES = 24;
const STOPPED = ["failed", "quarantined"];
const MEMORY = "not_enough_memory";
const DISMISSED = "studio.dismissed";
/** What happened, by the code of the error. */
const TITLES = /** @type {Record<string, string>} */ ({
  not_enough_memory: "There was not enough memory",
  not_enough_space: "The disk is full",
  model_unavailable: "The model cannot be used",
  device_lost: "The GPU stopped",
  no_device: "There is no GPU",
  upload_refused: "An input cannot be read",
  not_found: "An input is missing",
  quarantined: "This video stopped the studio three times",
});

class Stage {
  /** @param {HTMLElement} root @param {import("./types").Component<{first: string}>} component */
  constructor(root, component) {
    this.component = component;
    /** @type {Job[]} finished videos, the newest first */
    this.takes = [];
    this.known = false; // whether they were asked for
    this.version = -1;
    /** @type {string | null} the take that is watched; it is never swapped for another */
    this.pinned = null;
    this.chosen = false; // whether somebody chose it, or it was shown when its render ended
    /** @type {string | null} the job that was shown while it was rendered */
    this.watched = null;
    this.opened = ""; // the failed job that is shown although another one renders
    this.way = ""; // out of a failure that was chosen
    /** @type {{id: string, size: string, plan: import("./types").Plan | null} | null} what a smaller size of a failed job takes */
    this.smaller = null;
    this.partial = false; // the finished seconds are shown instead of the preview
    this.menu = false;
    this.spoken = "";
    this.said = "";
    /** @type {{words: string, undo?: () => void} | null} */
    this.notice = null;
    this.dismissed = new Set(JSON.parse(sessionStorage.getItem(DISMISSED) ?? "[]"));
    this.strip = document.createElement("div");
    this.place = document.createElement("div");
    this.notices = document.createElement("div");
    this.notices.setAttribute("aria-live", "polite");
    this.notices.className = "spoken";
    this.board = document.createElement("div");
    this.board.className = "sheet";
    this.board.hidden = true;
    root.append(this.place, this.board, this.strip, this.notices);
    this.sheet = new Sheet(this.board, { close: () => this.showSheet(null), say: (words) => this.say(words) });
    this.player = new Player(this.place, {
      picture: () => this.picture(),
      overlay: () => this.overlay(),
      spans: () => this.spans(),
      words: () => this.words(),
      actions: () => this.actions(),
    });
    const submitted = (/** @type {Event} */ event) => {
      [this.pinned, this.opened] = [null, ""];
      this.showSheet(/** @type {CustomEvent} */ (event).detail?.batch ?? null);
    };
    addEventListener("studio:submitted", submitted);
    const clockwork = setInterval(() => runningJob() && this.render(), 1000);
    const ends = [
      subscribe(() => this.follow()),
      onForm(() => this.render()),
      onKeys((key) => this.key(key)),
      () => removeEventListener("studio:submitted", submitted),
      () => clearInterval(clockwork),
      () => this.player.close(),
    ];
    this.end = () => ends.forEach((end) => end());
    this.render();
  }

  /** Something has changed in the studio. */
  follow() {
    const ended = this.watched ? live.jobs.get(this.watched) : undefined;
    if (ended && this.watched && !live.order.includes(this.watched)) {
      if (ended.state === "succeeded" && this.pinned === null) [this.pinned, this.chosen] = [ended.id, false]; // until one presses Generate
      this.watched = null;
    }
    if (live.connected && live.videos !== this.version) this.ask();
    if (!this.board.hidden) this.sheet.follow();
    this.render();
  }

  /** Show the variations of a batch instead of one video, or one video again. @param {string | null} batch */
  showSheet(batch) {
    this.board.hidden = !batch;
    this.place.hidden = Boolean(batch);
    if (batch) this.sheet.open(batch);
    this.render();
  }

  async ask() {
    this.version = live.videos;
    const { jobs } = await get("/jobs", { state: "succeeded", kind: "render", limit: TAKES }).catch(() => ({ jobs: this.takes }));
    this.takes = jobs;
    this.known = true;
    if (this.pinned && !jobs.some((/** @type {Job} */ job) => job.id === this.pinned)) this.pinned = null;
    this.render();
  }

  // --- what is shown ---

  /** @returns {{kind: "take" | "rendering" | "paused" | "failed" | "waiting" | "empty" | "unknown", job?: Job}} */
  subject() {
    const pinned = this.takes.find((job) => job.id === this.pinned);
    const newest = this.takes[0];
    const failed = this.failed();
    if (pinned && (this.chosen || !failed)) return { kind: "take", job: pinned };
    const active = live.order.map((id) => live.jobs.get(id)).filter((job) => job !== undefined);
    const renders = active.filter((job) => job.kind === "render");
    const running = renders.find((job) => job.state === "running");
    if (running && !(failed && failed.id === this.opened)) return { kind: "rendering", job: running };
    if (failed) return { kind: "failed", job: failed };
    const paused = renders.find((job) => job.state === "paused" && job.started_at);
    if (paused) return { kind: "paused", job: paused };
    if (renders.length && !newest) return { kind: "waiting", job: renders[0] };
    if (newest) return { kind: "take", job: newest };
    return { kind: this.known ? "empty" : "unknown" };
  }

  /** The job that failed last, if nothing was finished since. @returns {Job | undefined} */
  failed() {
    const [last] = [...live.jobs.values()]
      .filter((job) => STOPPED.includes(job.state) && !job.trashed_at && !this.dismissed.has(`${job.id}/${job.attempts}`))
      .sort((one, other) => (other.finished_at ?? 0) - (one.finished_at ?? 0));
    return last && (last.finished_at ?? 0) > (this.takes[0]?.finished_at ?? 0) ? last : undefined;
  }

  render() {
    const { kind, job } = this.subject();
    if (kind === "rendering" && job) this.watched = job.id;
    if (kind === "failed" && job) this.findSmaller(job);
    const ready = job?.progress?.frames_ready ?? 0;
    if (kind === "take" && job?.artifact) {
      this.partial = false;
      const { frames, fps } = job.artifact;
      this.player.open({ url: address(`app/static/media/${job.id}/video.mp4`), poster: this.thumbnail(job), frames, fps, alt: job.title });
    } else if (job && ready && (this.partial || kind !== "rendering")) {
      const url = address(`app/static/media/${job.id}/partial.mp4`, { v: ready });
      this.player.open({ url, frames: ready, fps: job.plan.fps, alt: `The first seconds of ${job.title}` });
    } else this.player.open(null);
    this.player.render();
    if (!this.board.hidden) {
      this.player.video.pause();
      this.sheet.render();
      patch(this.strip, [this.notice && this.noticeBar()]);
      this.speak("sheet", undefined);
      return;
    }
    patch(this.strip, [this.notice && this.noticeBar(), kind === "failed" ? this.wentOn() : ["take", "rendering"].includes(kind) && this.failureLine(), this.takesRow()]);
    this.speak(kind, job);
  }

  /** @param {Job} job */
  thumbnail(job) {
    return address(`app/static/media/${job.id}/thumbnail.jpg`);
  }

  /** What stands in the place of the player's video. @returns {Child[]} */
  picture() {
    const { kind, job } = this.subject();
    if (kind === "take") return [];
    const ready = job?.progress?.frames_ready ?? 0;
    if (ready && this.partial) return [];
    if (kind === "rendering" && job) {
      const shown = live.preview?.id === job.id ? live.preview.url : null;
      if (shown) return [h("img", { key: "live", src: address(shown), alt: `Preview of ${job.title}` })];
      return [this.wash(job), h("p", { key: "soon", class: "soon" }, "Preview starts in a few seconds")];
    }
    if (kind === "failed" || kind === "paused" || kind === "waiting") return ready ? [] : job ? [this.wash(job)] : [];
    if (kind === "unknown") return [h("span", { key: "nothing" })];
    return [
      h(
        "div",
        { key: "empty", class: "empty" },
        icon("movie"),
        h("b", null, this.component.data.first),
        h("span", null, "Write a prompt, or pick one of the examples, and press Generate."),
      ),
    ];
  }

  /** The first frame that was given, or the last take, out of focus. @param {Job} job */
  wash(job) {
    const given = job.request?.image;
    const take = this.takes[0];
    const src = given ? inputPreview(given, job.plan, job.request) : take && this.thumbnail(take);
    return h("div", { key: "wash", class: "wash" }, src && h("img", { src, alt: "" }));
  }

  /** @returns {Child[]} */
  overlay() {
    const { kind, job } = this.subject();
    const away = live.connected === false && h("div", { key: "away", class: "glass away", role: "status" }, icon("cloud_off"), AWAY);
    if (!job) return [away];
    if (kind === "take") return [this.takeGlass(job), away];
    if (kind === "failed") return [this.failure(job), away];
    return [this.renderGlass(kind, job), this.progressBar(kind, job), away];
  }

  /** @param {Job} job */
  takeGlass(job) {
    const made = job.artifact;
    const toggle = () => this.act(async () => {
      job.favourite = !job.favourite;
      this.render();
      await post(`/jobs/${job.id}/${job.favourite ? "favourite" : "unfavourite"}`);
    });
    const about = made ? `${made.width}x${made.height} · ${made.fps} fps · seed ${job.request.seed}` : "";
    return h(
      "div",
      { key: "glass", class: "top row spread" },
      h(
        "div",
        { class: "row" },
        h("span", { class: "glass" }, icon("movie"), h("b", null, this.takeName(job)), ago(job.finished_at ?? job.created_at)),
        h("span", { class: "glass wide" }, about),
      ),
      h(
        "div",
        { class: "row" },
        this.glassButton(job.favourite ? "heart_check" : "favorite", job.favourite ? "Remove favourite" : "Favourite", toggle, job.favourite),
        h(
          "a",
          { class: "glass button round", href: address(`api/v1/jobs/${job.id}/video`, { download: true }), download: "", "aria-label": "Download", title: "Download" },
          icon("download"),
        ),
        this.glassButton("fullscreen", "Full screen", () => this.player.toggleFullScreen()),
      ),
    );
  }

  /** @param {string} symbol @param {string} label @param {() => void} act @param {boolean} [on] */
  glassButton(symbol, label, act, on = false) {
    return h("button", { class: `glass button round ${on ? "on" : ""}`, "aria-label": label, title: label, onclick: act }, icon(symbol));
  }

  /** @param {string} kind @param {Job} job */
  renderGlass(kind, job) {
    const words = { rendering: "Rendering", paused: "Paused", waiting: "Waiting" }[kind] ?? "";
    const { plan } = job;
    const ready = job.progress?.frames_ready ?? 0;
    const pick = (/** @type {boolean} */ partial) => () => {
      this.partial = partial;
      this.render();
    };
    return h(
      "div",
      { key: "glass", class: "top row spread" },
      h(
        "div",
        { class: "row" },
        h("span", { class: "glass" }, h("span", { class: `dot ${kind}` }), h("b", null, words)),
        h("span", { class: "glass wide" }, `${plan.width}x${plan.height} · ${duration(plan.total_frames / plan.fps)} · seed ${job.request.seed}`),
      ),
      h(
        "div",
        { class: "row" },
        kind === "rendering" && ready > 0 &&
          h(
            "div",
            { class: "glass switch", role: "group", "aria-label": "What is shown" },
            h("button", { class: this.partial ? "" : "on", "aria-pressed": String(!this.partial), onclick: pick(false) }, "Live"),
            h("button", { class: this.partial ? "on" : "", "aria-pressed": String(this.partial), onclick: pick(true) }, `Finished ${duration(ready / plan.fps)}`),
          ),
        this.glassButton("fullscreen", "Full screen", () => this.player.toggleFullScreen()),
      ),
    );
  }

  /** @param {string} kind @param {Job} job */
  progressBar(kind, job) {
    const progress = job.progress;
    const percent = Math.floor(100 * (progress?.fraction ?? 0));
    const act = (/** @type {string} */ name) => () => this.act(() => post(`/jobs/${job.id}/${name}`));
    const button = (/** @type {string} */ symbol, /** @type {string} */ label, /** @type {string} */ name) =>
      h("button", { key: name, class: "glass button", onclick: act(name) }, icon(symbol), label);
    return h(
      "div",
      { key: "progress", class: "progress" },
      h("span", { class: "percent", "aria-hidden": "true" }, h("b", null, percent), "%"),
      h("div", { class: "stages" }, h("b", null, stageWords(job)), h("span", null, timeWords(job))),
      h(
        "div",
        { class: "row" },
        live.paused && kind === "waiting"
          ? h("button", { key: "queue", class: "glass button", onclick: () => this.act(() => post("/queue/resume")) }, icon("play_arrow"), "Resume the queue")
          : job.state === "paused"
            ? button("play_arrow", "Resume", "resume")
            : button("pause", "Pause", "pause"),
        button("close", "Cancel", "cancel"),
      ),
      h("progress", { class: "spoken", max: 100, value: percent, "aria-label": "Render" }, `${percent} %`),
    );
  }

  /** What happened, what is kept, and the ways out. @param {Job} job */
  failure(job) {
    const error = job.error ?? { code: "", message: "The render ended without a reason.", hint: "", log: [] };
    const what = error.message.endsWith(error.hint) ? error.message.slice(0, error.message.length - error.hint.length).trim() : error.message;
    const kept = keptWords(job);
    const part = Math.floor(100 * (job.progress?.fraction ?? 0));
    const ways = this.ways(job, error);
    const chosen = /** @type {Way} */ (ways.find((way) => `${job.id} ${way.id}` === this.way) ?? ways[0]);
    return h(
      "div",
      { key: "failure", class: "failure" },
      h(
        "div",
        { class: "top row" },
        h("span", { class: "glass bad" }, icon("error"), part ? `Stopped at ${part} %` : "Stopped"),
        h("span", { class: "glass wide" }, `${job.plan.width}x${job.plan.height} · ${duration(job.plan.total_frames / job.plan.fps)} · seed ${job.request.seed}`),
      ),
      h(
        "section",
        { class: "card panel", "aria-label": "What happened" },
        h(
          "div",
          { class: "head" },
          h("span", { class: "badge" }, icon(error.code === MEMORY ? "memory" : "error")),
          h(
            "div",
            null,
            h("h2", { class: "section" }, TITLES[job.state === "quarantined" ? "quarantined" : error.code] ?? "The render failed"),
            h("p", { class: "muted" }, what.replace(/;$/, "."), error.hint && ` ${capital(error.hint)}`),
          ),
        ),
        kept && h("p", { class: "kept" }, icon("check_circle"), kept),
        h(
          "div",
          { class: "ways", role: "radiogroup", "aria-label": "Ways out" },
          ...ways.map((way) =>
            h(
              "label",
              { key: way.id, class: `way ${way === chosen ? "on" : ""}` },
              h("input", { type: "radio", name: "way", value: way.id, checked: way === chosen, onchange: () => this.choose(`${job.id} ${way.id}`) }),
              h("span", { class: "what" }, h("b", null, way.label), h("span", { class: "small muted" }, way.about)),
              h("span", { class: "small when" }, way.time),
            ),
          ),
        ),
        h(
          "div",
          { class: "row" },
          h("button", { class: "button primary", onclick: () => this.act(chosen.act) }, icon(chosen.symbol), chosen.press),
          h("button", { class: "button outlined", onclick: () => this.edit(job) }, icon("edit"), "Edit and retry"),
          h("button", { class: "button", onclick: () => this.discard(job) }, icon("delete"), "Discard"),
          h("span", { class: "space" }),
          h("button", { class: "button", onclick: () => this.dismiss(job) }, "Later"),
        ),
        this.details(job, error),
      ),
    );
  }

  /** The ways out of a failure, the one that loses least first. @param {Job} job @param {import("./types").JobError} error
   * @returns {Way[]} */
  ways(job, { code, hint }) {
    const { progress, plan } = job;
    const saved = Boolean(progress?.saved_at || progress?.frames_ready);
    // What model_cache.py says where the next attempt keeps less on the GPU.
    const less = code === MEMORY && /keeps fewer models on the GPU/.test(hint);
    const left = plan.forecast.total_s * (saved ? 1 - (progress?.fraction ?? 0) : 1);
    const from = saved ? "Goes on from what is saved" : "Begins anew";
    /** @type {Way[]} */
    const ways = [
      {
        id: "retry",
        label: less ? "Continue with less memory" : saved ? "Continue" : "Try again",
        about: less ? `Keeps fewer models on the GPU, which is slower; the same picture. ${from}.` : `${from}, last in the queue.`,
        time: `${less ? "at least" : "about"} ${estimate(left)}`,
        press: saved ? "Continue" : "Retry",
        symbol: "play_arrow",
        act: () => post(`/jobs/${job.id}/retry`),
      },
    ];
    const smaller = this.smaller?.id === job.id ? this.smaller.plan : null;
    if (smaller) {
      ways.push({
        id: "smaller",
        label: `Render it at ${smaller.width}x${smaller.height}`,
        about: `Needs ${smaller.forecast.peak_gib.toFixed(1)} GiB instead of ${plan.forecast.peak_gib.toFixed(1)}. Begins anew.`,
        time: about(smaller.forecast),
        press: "Render smaller",
        symbol: "play_arrow",
        act: () => this.renderSmaller(job),
      });
    }
    if (progress?.frames_ready) {
      const seconds = duration(progress.frames_ready / plan.fps);
      ways.push({
        id: "keep",
        label: `Keep the first ${seconds} as a file`,
        about: "Saves the finished seconds as an MP4; the render can still go on.",
        time: "ready now",
        press: `Save ${seconds}`,
        symbol: "download",
        act: () => saveAs(address(`app/static/media/${job.id}/partial.mp4`, { v: progress.frames_ready }), `${stem(job)}-first-${progress.frames_ready}-frames.mp4`),
      });
    }
    return ways;
  }

  /** @param {string} way the ids of the job and of the way */
  choose(way) {
    this.way = way;
    this.render();
  }

  /** Ask once for each job that ran out of memory what the next smaller size would take. @param {Job} job */
  async findSmaller(job) {
    if (job.error?.code !== MEMORY || this.smaller?.id === job.id) return;
    this.smaller = { id: job.id, size: "", plan: null };
    for (const size of smallerSizes(job.plan)) {
      const plan = await post("/plan", { ...job.request, resolution: size }).catch(() => null);
      if (plan && plan.forecast.peak_gib < job.plan.forecast.peak_gib) {
        this.smaller = { id: job.id, size, plan };
        this.render();
        return;
      }
    }
  }

  /** @param {Job} job */
  async renderSmaller(job) {
    await post(`/jobs/${job.id}/edit`, { resolution: this.smaller?.size });
    this.dismiss(job);
  }

  /** @param {Job} job @param {import("./types").JobError} error */
  details(job, error) {
    const text = [`code: ${error.code}`, `stage: ${stageWords(job)}`, `attempts: ${job.attempts}`, `job: ${job.id}`, job.title, ...error.log].join("\n");
    const copy = () => this.act(async () => {
      await navigator.clipboard.writeText(text);
      this.say("The details are copied.");
    });
    return h(
      "details",
      { key: "details" },
      h("summary", { class: "small muted" }, "Details"),
      h("pre", { class: "small" }, text),
      navigator.clipboard && h("button", { class: "button small", onclick: copy }, icon("content_copy"), "Copy"),
    );
  }

  /** @returns {import("./player.js").Span[]} */
  spans() {
    const { kind, job } = this.subject();
    if (kind === "take" || !job) return [];
    const { plan, progress } = job;
    const total = plan.total_frames || 1;
    const done = (progress?.frames_ready ?? 0) / total;
    const windows = Math.max(1, plan.windows.length);
    const making = windows > 1 ? Math.min(1, Math.max(done, (progress?.window ?? 1) / windows)) : 1;
    const at = done + (making - done) * (kind === "failed" || windows > 1 ? partOfWindow(job) : (progress?.fraction ?? 0));
    const rest = plan.total_frames / plan.fps;
    return [
      { until: done, tone: "done", label: done > 0.12 ? `playable to ${duration(done * rest)}` : "" },
      { until: at, tone: "making", label: kind === "failed" && at - done > 0.08 && progress?.step ? `stopped at step ${progress.step}` : "" },
      { until: 1, tone: "coming", label: at < 0.8 ? `${duration(at * rest)} to ${duration(rest)}, ${kind === "failed" ? "not made yet" : "next"}` : "" },
    ];
  }

  /** @returns {Child} */
  words() {
    const { kind, job } = this.subject();
    if (kind === "take" || !job || this.player.source) return undefined;
    return h("span", { class: "muted" }, duration(job.plan.total_frames / job.plan.fps));
  }

  /** @returns {Child[]} */
  actions() {
    const { kind, job } = this.subject();
    if (kind === "empty" || kind === "unknown" || !job) return [];
    const source = Boolean(this.player.source);
    const button = (/** @type {string} */ symbol, /** @type {string} */ label, /** @type {() => void} */ act, more = {}) =>
      h("button", { key: label, class: "button act", "aria-label": label, title: label, onclick: act, disabled: !source, ...more }, icon(symbol), h("span", null, label));
    if (kind !== "take") {
      return [
        button("photo_camera", "Save frame", () => this.act(() => this.player.saveFrame(stem(job)))),
        button("first_page", "Use as first frame", () => this.act(() => this.useFrame("image"))),
      ];
    }
    return [
      button("photo_camera", "Save frame", () => this.act(() => this.player.saveFrame(stem(job)))),
      h("span", { key: "as", class: "muted as" }, "Use as"),
      button("first_page", "First frame", () => this.act(() => this.useFrame("image"))),
      button("last_page", "Last frame", () => this.act(() => this.useFrame("end_image"))),
      job.request.draft_steps
        ? button("auto_awesome", "Finish this draft", () => this.act(() => this.finish(job)))
        : button("playlist_add", "Extend", () => this.act(() => extend(job))),
      button("grid_view", "Variations", () => this.act(() => replace({ ...formOf(job), variations: 4, parent: job.id }))),
      h(
        "div",
        { key: "more", class: "more" },
        h(
          "button",
          { class: "button round", "aria-label": "More", title: "More", "aria-haspopup": "menu", "aria-expanded": String(this.menu), onclick: () => this.toggleMenu() },
          icon("more_horiz"),
        ),
        this.menu && this.moreMenu(job),
      ),
    ];
  }

  toggleMenu() {
    this.menu = !this.menu;
    this.render();
    if (this.menu) /** @type {HTMLElement | null} */ (this.place.querySelector(".menu button"))?.focus();
  }

  /** @param {Job} job */
  moreMenu(job) {
    const item = (/** @type {string} */ symbol, /** @type {string} */ label, /** @type {() => void} */ act, more = "") =>
      h("button", { class: `button ${more}`, role: "menuitem", onclick: () => {
        this.menu = false;
        this.act(act);
        this.render();
      } }, icon(symbol), label);
    return h(
      "div",
      { class: "menu", role: "menu", onkeydown: (/** @type {KeyboardEvent} */ event) => this.menuKey(event) },
      item("tune", "Use these settings", () => replace(formOf(job))),
      item("casino", "Again with another seed", () => post(`/jobs/${job.id}/again`)),
      job.batch && item("view_module", "Contact sheet", () => this.showSheet(job.batch)),
      item("grid_view", "Show in gallery", () => this.component.setTriggerValue("gallery", { video: job.id })),
      item("delete", "Delete", () => this.discard(job), "bad"),
    );
  }

  /** @param {KeyboardEvent} event */
  menuKey(event) {
    const items = [.../** @type {NodeListOf<HTMLElement>} */ (this.place.querySelectorAll(".menu button"))];
    const root = /** @type {ShadowRoot} */ (this.place.getRootNode());
    const at = items.indexOf(/** @type {HTMLElement} */ (root.activeElement));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (event.key === "Escape") this.toggleMenu();
    else if (to === undefined) return;
    else items[(to + items.length) % items.length]?.focus();
    event.preventDefault();
    event.stopPropagation();
  }

  // --- the takes ---

  takesRow() {
    const { job } = this.subject();
    const prompt = job?.title ?? current().prompt;
    const same = this.takes.filter((take) => take.title === prompt);
    const [label, takes] = same.length ? ["Takes of this prompt", same] : ["Latest", this.takes];
    const waiting = live.order.map((id) => live.jobs.get(id)).filter((one) => one?.kind === "render");
    const next = waiting.filter((one) => one && one.id !== job?.id);
    return h(
      "div",
      { key: "takes", class: "strips" },
      (takes.length > 0 || next.length === 0) && h(
        "section",
        { key: "same", class: "strip-of", "aria-label": label },
        h(
          "div",
          { class: "row spread" },
          h("h2", { class: "section" }, label, " ", h("span", { class: "muted small" }, takes.length || "")),
          h("button", { class: "button small", onclick: () => this.component.setTriggerValue("gallery", {}) }, icon("grid_view"), "Show in gallery"),
        ),
        takes.length
          ? h("div", { class: "cards" }, ...takes.slice(0, 12).map((take) => this.takeCard(take)))
          : h("p", { class: "muted small none" }, "Your videos appear here."),
      ),
      next.length > 0 && h(
        "section",
        { key: "next", class: "strip-of", "aria-label": "Next in the queue" },
        h(
          "div",
          { class: "row spread" },
          h("h2", { class: "section" }, "Next in the queue", " ", h("span", { class: "muted small" }, queueWords(next.length))),
          h("button", { class: "button small", onclick: () => this.component.setTriggerValue("queue", {}) }, "Open the queue"),
        ),
        h("div", { class: "cards" }, ...next.slice(0, 8).map((one, index) => one && this.nextCard(one, index))),
      ),
    );
  }

  /** The number of a take among those of its prompt. @param {Job} job */
  takeNumber(job) {
    const same = this.takes.filter((take) => take.title === job.title);
    return same.length - same.findIndex((take) => take.id === job.id);
  }

  /** @param {Job} job */
  takeName(job) {
    return job.artifact?.draft || job.request.draft_steps ? `Draft ${this.takeNumber(job)}` : `Take ${this.takeNumber(job)}`;
  }

  /** @param {Job} job */
  takeCard(job) {
    const { job: shown } = this.subject();
    const seconds = job.artifact ? job.artifact.frames / job.artifact.fps : 0;
    const draft = Boolean(job.request.draft_steps);
    return h(
      "button",
      { key: job.id, class: `take ${job.id === shown?.id ? "on" : ""}`, title: job.title, "aria-pressed": String(job.id === shown?.id), onclick: () => this.watch(job) },
      h("img", { src: this.thumbnail(job), alt: "", loading: "lazy" }),
      h("span", { class: "glass number" }, this.takeNumber(job)),
      h("span", { class: "glass length" }, draft ? "Draft" : duration(seconds)),
      h("span", { class: "spoken" }, job.title),
      job.favourite && h("span", { class: "glass heart" }, icon("heart_check")),
    );
  }

  /** @param {Job} job @param {number} index */
  nextCard(job, index) {
    const rendering = job.state === "running";
    const words = rendering ? `${Math.floor(100 * (job.progress?.fraction ?? 0))} %` : job.state === "paused" ? "Paused" : estimate(job.plan.forecast.total_s);
    const open = () => {
      if (rendering) {
        this.pinned = null;
        this.render();
      } else this.component.setTriggerValue("queue", {});
    };
    return h(
      "button",
      { key: job.id, class: "take waiting", title: job.title, onclick: open },
      h("span", { class: "prompt" }, job.title),
      h("span", { class: "glass number" }, rendering ? icon("play_arrow") : index + 1),
      h("span", { class: "glass length" }, icon(job.state === "paused" ? "pause" : "schedule"), words),
    );
  }

  /** @param {Job} job */
  watch(job) {
    this.opened = "";
    [this.pinned, this.chosen] = [job.id, true];
    this.partial = false;
    this.render();
  }

  // --- what can be done ---

  /** Do something that may be refused; the refusal is said below the stage. @param {() => unknown} act */
  async act(act) {
    try {
      await act();
    } catch (error) {
      this.say(error instanceof Error ? error.message : String(error));
    }
  }

  /** @param {string} words @param {() => void} [undo] */
  say(words, undo) {
    this.notice = { words, undo };
    this.render();
  }

  /** A failure while another take is watched. */
  failureLine() {
    const failed = this.failed();
    if (!failed) return null;
    const show = () => {
      [this.pinned, this.opened] = [null, failed.id];
      this.render();
    };
    return h("p", { key: "failed", class: "row line bad-line", role: "status" }, icon("error"), h("span", { class: "clip" }, `Stopped: ${failed.title}`), h("button", { class: "button tinted", onclick: show }, "Show"));
  }

  /** What renders while a failure is shown. */
  wentOn() {
    const running = runningJob();
    if (!running) return null;
    const show = () => {
      this.opened = "";
      this.render();
    };
    return h("p", { key: "went-on", class: "row line" }, icon("arrow_forward"), h("span", { class: "clip" }, `The queue went on with “${running.title}”.`), h("button", { class: "button tinted", onclick: show }, "Show"));
  }

  noticeBar() {
    const { words = "", undo } = this.notice ?? {};
    const close = () => {
      this.notice = null;
      this.render();
    };
    return h(
      "div",
      { key: "notice", class: "notice card row", role: "status" },
      h("span", null, words),
      h("span", { class: "space" }),
      undo && h("button", { class: "button tinted", onclick: () => {
        close();
        this.act(undo);
      } }, "Undo"),
      h("button", { class: "button round", "aria-label": "Close", onclick: close }, icon("close")),
    );
  }

  /** Use the frame that is shown as an input. @param {"image" | "end_image"} field */
  async useFrame(field) {
    const sent = await upload(await this.player.still(), `frame-${this.player.frame + 1}.png`);
    const extending = field === "end_image" && current().mode === "video_extension";
    change({ [field]: sent.id, mode: extending ? "video_extension" : "image_to_video", story: null });
    dispatchEvent(new CustomEvent("studio:form"));
  }

  /** Finish a draft from its saved state, and watch it. @param {Job} job */
  async finish(job) {
    await post(`/jobs/${job.id}/promote`);
    this.pinned = null;
    this.render();
  }

  /** @param {Job} job */
  edit(job) {
    this.act(() => replace({ ...formOf(job), replaces: job.id }));
  }

  /** @param {Job} job */
  async discard(job) {
    await this.act(async () => {
      await ask("DELETE", `/jobs/${job.id}`);
      live.jobs.delete(job.id);
      if (this.pinned === job.id) this.pinned = null;
      this.takes = this.takes.filter((take) => take.id !== job.id);
      this.say("Moved to trash, where it stays for a week.", () => this.act(() => post(`/jobs/${job.id}/restore`)));
    });
  }

  /** @param {Job} job */
  dismiss(job) {
    this.dismissed.add(`${job.id}/${job.attempts}`);
    sessionStorage.setItem(DISMISSED, JSON.stringify([...this.dismissed]));
    this.render();
  }

  /** @param {string} key @returns {boolean} */
  key(key) {
    if (!this.board.hidden) return this.sheet.key(key);
    const { kind, job } = this.subject();
    if (key === "Escape" && this.menu) {
      this.toggleMenu();
      return true;
    }
    if (kind === "take" && job) {
      const more = /** @type {Record<string, () => void>} */ ({
        s: () => this.act(() => this.player.saveFrame(stem(job))),
        e: () => this.act(() => extend(job)),
        v: () => this.act(() => replace({ ...formOf(job), variations: 4, parent: job.id })),
        h: () => /** @type {HTMLElement | null} */ (this.place.querySelector(".top .button"))?.click(),
      })[key];
      if (more) {
        more();
        return true;
      }
    }
    return this.player.key(key);
  }

  /** Tell a screen reader of a change of the stage, never of each step. @param {string} kind @param {Job | undefined} job */
  speak(kind, job) {
    const at = kind === "rendering" && job ? `Rendering, ${job.progress?.stage ?? "starting"}` : kind;
    if (at === this.said) return;
    this.said = at;
    const words = { failed: `Stopped: ${job?.title}`, paused: `Paused: ${job?.title}`, take: `Ready: ${job?.title}` };
    this.notices.textContent = kind === "rendering" ? `${at}: ${job?.title}` : (/** @type {Record<string, string>} */ (words)[kind] ?? "");
  }
}

/** @param {string} text */
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Sizes below that of a plan, the largest first. @param {import("./types").Plan} plan */
function smallerSizes({ width, height }) {
  const part = (/** @type {number} */ side, /** @type {number} */ of) => 2 * Math.round((side * of) / 2);
  const free = [2 / 3, 1 / 2].map((of) => `${part(width, of)}x${part(height, of)}`);
  return Math.min(width, height) > 540 ? ["540p", ...free] : free;
}

/** How much of the present window is done. @param {Job} job */
const partOfWindow = ({ progress }) => (progress?.steps ? Math.min(1, progress.step / progress.steps) : 0);

/** @param {Job} job */
export function stageWords(job) {
  const { progress, plan } = job;
  if (job.state === "queued") return job.error?.message ?? "Waiting";
  if (!progress) return "Starting";
  const parts = [capital(progress.stage)];
  if (progress.step) {
    if (plan.windows.length > 1) parts.push(`window ${Math.max(1, progress.window)} of ${progress.windows}`);
    parts.push(`step ${progress.step} of ${progress.steps}`);
  }
  return parts.join(" · ");
}

/** @param {Job} job @param {number} [now] seconds since the epoch */
export function timeWords(job, now = Date.now() / 1000) {
  const { progress } = job;
  if (job.state === "queued") return live.paused ? "The queue is paused: nothing new will start." : "";
  const parts = [];
  if (job.started_at && job.state === "running") parts.push(`${duration(Math.max(0, now - job.started_at))} elapsed`);
  if (progress?.eta_s !== null && progress?.eta_s !== undefined && job.state === "running") {
    parts.push(`${leftWords(job, progress.eta_s)} left${progress.eta_reason ? ` (${progress.eta_reason})` : ""}`);
  }
  if (progress?.saved_at) parts.push(`checkpoint ${ago(progress.saved_at, now)}, progress is kept`);
  return parts.join(" · ");
}

/** The time left: a range as long as few renders support the forecast. @param {Job} job @param {number} left seconds */
function leftWords(job, left) {
  const { low_s, high_s, total_s } = job.plan.forecast;
  if (!low_s || !high_s || !total_s) return `about ${estimate(left)}`;
  return range((left * low_s) / total_s, (left * high_s) / total_s);
}

/** @param {Job} job */
function keptWords({ progress, plan }) {
  if (!progress?.saved_at && !progress?.frames_ready) return "";
  const parts = [];
  if (progress.frames_ready) parts.push(`the first ${duration(progress.frames_ready / plan.fps)} play below`);
  if (progress.saved_at && progress.step) {
    parts.push(`step ${progress.step}${plan.windows.length > 1 ? ` of window ${progress.window}` : ""} is saved`);
  }
  return parts.length ? `Nothing is lost: ${parts.join(", and ")}.` : "";
}

/** @param {number} count */
function queueWords(count) {
  if (live.paused) return `${count} · the queue is paused`;
  const left = live.order.reduce((sum, id) => {
    const job = live.jobs.get(id);
    if (!job || job.state === "paused") return sum;
    return sum + (job.progress?.eta_s ?? job.plan.forecast.total_s);
  }, 0);
  return `${count} · done about ${clock(Date.now() / 1000 + left)}`;
}

/** @type {WeakMap<ShadowRoot, Stage>} */
const stages = new WeakMap();

/** @param {import("./types").Component<{first: string}>} component */
export default function show(component) {
  const root = rootOf(component.parentElement, "stage");
  let stage = stages.get(component.parentElement);
  if (!stage) stages.set(component.parentElement, (stage = new Stage(root, component)));
  stage.component = component;
  return () => {
    stage?.end();
    stages.delete(component.parentElement);
  };
}
