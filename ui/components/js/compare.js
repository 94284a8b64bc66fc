/** Two videos in step: one clock drives both. */

import { address, get } from "./api.js";
import { h, icon, patch } from "./dom.js";
import { formOf, replace } from "./draft.js";
import { keepMarks, note, stars } from "./marks.js";
import { recipe } from "./recipe.js";
import { calm } from "./theme.js";
import { ago, position } from "./words.js";

/** @typedef {import("./types").Job} Job */
/** @typedef {import("./dom.js").Child} Child */
/** @typedef {{close: () => void, swap: () => void, create: () => void, act: (act: () => Promise<unknown>) => Promise<void>}} Page */

const WAYS = /** @type {const} */ ([
  ["wipe", "compare", "Wipe"],
  ["beside", "view_column_2", "Side by side"],
  ["difference", "difference", "Difference"],
]);
const LETTERS = /** @type {const} */ (["A", "B"]);
const SPEEDS = [1, 0.5, 0.25, 2];
const ZOOM_MOST = 8;

export class Compare {
  /** @param {HTMLElement} place @param {Page} page */
  constructor(place, page) {
    this.place = place;
    this.page = page;
    this.ids = "";
    /** @type {Job[]} A and B */
    this.jobs = [];
    this.error = "";
    this.way = "wipe";
    this.cut = 0.5; // where B begins, of the width
    this.hand = 1; // the one that digits rate
    this.only = -1; // the one that is shown alone
    this.all = false; // rows that are equal are shown too
    this.zoom = 1;
    this.shift = [0, 0]; // of the picture, as parts of its size
    this.playing = false;
    this.loop = true;
    this.speed = 1;
    this.time = 0; // seconds
    this.last = 0;
    this.tick = (/** @type {number} */ now) => this.ran(now);
  }

  /** @param {string} ids "A,B"; "" closes it */
  async open(ids) {
    this.place.hidden = !ids;
    if (ids === this.ids) return;
    [this.ids, this.jobs, this.error, this.time, this.zoom, this.shift, this.only] = [ids, [], "", 0, 1, [0, 0], -1];
    this.playing = false;
    patch(this.place, []);
    if (!ids) return;
    try {
      const jobs = await Promise.all(ids.split(",").slice(0, 2).map((id) => get(`/jobs/${id}`)));
      if (ids !== this.ids) return;
      if (jobs.length < 2) throw new Error("Choose two videos to compare.");
      this.jobs = jobs;
      this.playing = !calm();
    } catch (error) {
      if (ids !== this.ids) return;
      this.error = error instanceof Error ? error.message : String(error);
    }
    this.render();
    /** @type {HTMLElement | null} */ (this.place.querySelector("h1"))?.focus();
    this.last = performance.now();
    requestAnimationFrame(this.tick);
  }

  // --- the clock ---

  get seconds() {
    return Math.max(0.04, ...this.jobs.map((job) => (job.artifact ? job.artifact.frames / job.artifact.fps : 0)));
  }

  get fps() {
    return this.jobs[0]?.artifact?.fps ?? 24;
  }

  get frames() {
    return Math.max(1, Math.round(this.seconds * this.fps));
  }

  get frame() {
    return Math.min(this.frames - 1, Math.floor(this.time * this.fps + 1e-3));
  }

  videos() {
    return [.../** @type {NodeListOf<HTMLVideoElement>} */ (this.place.querySelectorAll("video"))];
  }

  /** @param {number} now milliseconds */
  ran(now) {
    if (!this.ids || this.place.hidden) return;
    if (this.playing && this.videos().every((video) => video.readyState >= 2 || video.error)) {
      this.time += (this.speed * (now - this.last)) / 1000;
      if (this.time >= this.seconds) {
        this.time = this.loop ? this.time % this.seconds : this.seconds - 0.5 / this.fps;
        if (!this.loop) this.playing = false;
        this.keepStep(true);
        if (!this.loop) this.render();
      } else this.keepStep();
      this.moved();
    }
    this.last = now;
    requestAnimationFrame(this.tick);
  }

  /** Bring both videos to the clock. @param {boolean} [exactly] not only those that are off by more than a frame */
  keepStep(exactly = false) {
    for (const [index, video] of this.videos().entries()) {
      const made = this.jobs[index]?.artifact;
      if (!made || video.readyState < 1) continue;
      const last = (made.frames - 0.5) / made.fps;
      const time = Math.min(last, this.playing ? this.time : (this.frame + 0.5) / this.fps);
      const runs = this.playing && this.time < last;
      if (exactly || Math.abs(video.currentTime - time) > 1.5 / made.fps || !runs) {
        if (Math.abs(video.currentTime - time) > 1e-3) video.currentTime = time;
      }
      video.playbackRate = this.speed;
      if (runs && video.paused) video.play().catch(() => {});
      if (!runs && !video.paused) video.pause();
    }
  }

  /** @param {boolean} playing */
  play(playing) {
    this.playing = playing;
    if (playing && this.time >= this.seconds - 1 / this.fps) this.time = 0;
    this.keepStep(true);
    this.render();
  }

  /** @param {number} frame */
  seek(frame) {
    this.playing = false;
    this.time = (Math.min(this.frames - 1, Math.max(0, Math.round(frame))) + 0.5) / this.fps;
    this.keepStep(true);
    this.render();
  }

  // --- what it does ---

  /** @param {number} index @param {Record<string, any>} changes */
  mark(index, changes) {
    const job = this.jobs[index];
    if (job) this.page.act(() => keepMarks(job, changes, () => this.render()));
  }

  /** B's settings with A's prompt. */
  mix() {
    const [a, b] = this.jobs;
    if (!a || !b) return;
    this.page.act(async () => {
      await replace({ ...formOf(b), prompt: a.request.prompt, parent: b.id });
      this.page.create();
    });
  }

  /** @param {number} zoom */
  zoomTo(zoom) {
    this.zoom = Math.min(ZOOM_MOST, Math.max(1, zoom));
    const most = (this.zoom - 1) / (2 * this.zoom);
    this.shift = this.shift.map((part) => Math.min(most, Math.max(-most, part)));
    this.render();
  }

  /** @param {PointerEvent} event */
  drag(event) {
    if (event.button !== 0 || /** @type {Element} */ (event.target).closest("button")) return;
    const area = /** @type {HTMLElement} */ (event.currentTarget);
    const box = area.getBoundingClientRect();
    let [x, y] = [event.clientX, event.clientY];
    const wipes = this.way === "wipe" && (this.zoom === 1 || Boolean(/** @type {Element} */ (event.target).closest(".handle")));
    const follow = (/** @type {PointerEvent} */ at) => {
      if (wipes) this.cut = Math.min(1, Math.max(0, (at.clientX - box.left) / box.width));
      else {
        this.shift = [/** @type {number} */ (this.shift[0]) + (at.clientX - x) / box.width / this.zoom, /** @type {number} */ (this.shift[1]) + (at.clientY - y) / box.height / this.zoom];
        [x, y] = [at.clientX, at.clientY];
      }
      this.zoomTo(this.zoom);
    };
    area.setPointerCapture(event.pointerId);
    if (wipes) follow(event);
    area.onpointermove = follow;
    area.onpointerup = area.onpointercancel = () => {
      area.onpointermove = area.onpointerup = area.onpointercancel = null;
    };
  }

  /** @param {string} key @returns {boolean} */
  key(key) {
    const keys = /** @type {Record<string, () => void>} */ ({
      Escape: () => this.page.close(),
      " ": () => this.play(!this.playing),
      ArrowLeft: () => this.seek(this.frame - 1),
      ArrowRight: () => this.seek(this.frame + 1),
      "Shift+ArrowLeft": () => this.seek(this.frame - Math.round(this.fps)),
      "Shift+ArrowRight": () => this.seek(this.frame + Math.round(this.fps)),
      Home: () => this.seek(0),
      End: () => this.seek(this.frames - 1),
      a: () => this.alone(0),
      b: () => this.alone(1),
      l: () => this.setLoop(),
      "+": () => this.zoomTo(this.zoom * 1.5),
      "-": () => this.zoomTo(this.zoom / 1.5),
      0: () => this.zoomTo(1),
    });
    if (/^[1-5]$/.test(key)) this.mark(this.hand, { rating: Number(key) });
    else if (keys[key]) keys[key]?.();
    else return false;
    return true;
  }

  /** Show one of them alone, or both again. @param {number} index */
  alone(index) {
    this.only = this.only === index ? -1 : index;
    this.hand = index;
    this.render();
  }

  setLoop() {
    this.loop = !this.loop;
    this.render();
  }

  /** @param {KeyboardEvent} event */
  wipeKey(event) {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.cut = Math.min(1, Math.max(0, this.cut + step));
    this.render();
  }

  // --- how it looks ---

  render() {
    if (!this.ids) return;
    this.place.setAttribute("aria-label", "Compare two takes");
    const [a, b] = this.jobs;
    if (!a || !b) {
      patch(this.place, [
        this.head(""),
        h("div", { key: "stage", class: "stage" }, this.error && h("div", { class: "fault" }, icon("error"), h("b", null, "These videos cannot be compared"), h("span", null, this.error))),
      ]);
      return;
    }
    const ratio = (a.artifact?.width ?? 16) / (a.artifact?.height ?? 9);
    this.place.style.setProperty("--ratio", String(this.way === "beside" ? 2 * ratio : ratio));
    patch(this.place, [this.head(a.title === b.title ? a.title : ""), h("div", { key: "stage", class: "stage" }, this.area(), this.timeline(), this.controls()), this.panel(a, b)]);
    this.keepStep();
    this.moved();
  }

  /** @param {string} title */
  head(title) {
    return h(
      "div",
      { key: "head", class: "head row" },
      h("button", { class: "button round", "aria-label": "Back to the videos", onclick: () => this.page.close() }, icon("arrow_back")),
      h("h1", { tabindex: -1 }, "Compare two takes"),
      h("span", { class: "muted small what" }, title),
      h(
        "div",
        { class: "ways", role: "group", "aria-label": "How they are compared" },
        WAYS.map(([way, symbol, label]) =>
          h(
            "button",
            {
              class: `button ${this.way === way ? "tinted" : ""}`,
              "aria-pressed": String(this.way === way),
              onclick: () => {
                this.way = way;
                this.render();
              },
            },
            icon(symbol),
            label,
          ),
        ),
      ),
      h("button", { class: "button outlined", onclick: () => this.page.swap() }, icon("swap_horiz"), "Swap"),
    );
  }

  area() {
    const scale = `transform: scale(${this.zoom}) translate(${this.shift.map((part) => `${(100 * part).toFixed(3)}%`).join(", ")})`;
    const clip = (/** @type {number} */ index) => {
      if (this.only >= 0) return this.only === index ? "" : "visibility: hidden";
      return this.way === "wipe" && index === 1 ? `clip-path: inset(0 0 0 ${100 * this.cut}%)` : "";
    };
    return h(
      "div",
      {
        key: "area",
        class: `area ${this.way} ${this.only >= 0 ? "alone" : ""}`,
        onpointerdown: (/** @type {PointerEvent} */ event) => this.drag(event),
        onwheel: (/** @type {WheelEvent} */ event) => {
          if (!event.ctrlKey) return;
          event.preventDefault();
          this.zoomTo(this.zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15));
        },
      },
      this.jobs.map((job, index) =>
        h(
          "div",
          { key: LETTERS[index], class: `side ${LETTERS[index]}`, style: clip(index) },
          h("video", {
            src: address(`api/v1/jobs/${job.id}/video`),
            muted: true,
            playsinline: true,
            preload: "auto",
            "aria-label": `${LETTERS[index]}: ${job.title}`,
            style: scale,
            onloadeddata: () => this.keepStep(true),
          }),
        ),
      ),
      this.jobs.map((job, index) =>
        (this.only < 0 || this.only === index) &&
        h("span", { key: `label ${LETTERS[index]}`, class: `glass label ${LETTERS[index]}` }, letter(index), job.request.draft_steps ? "Draft" : `Seed ${job.request.seed}`),
      ),
      this.way === "wipe" &&
        this.only < 0 &&
        h("div", {
          key: "handle",
          class: "handle",
          role: "slider",
          tabindex: 0,
          "aria-label": "Where B begins",
          "aria-valuemin": 0,
          "aria-valuemax": 100,
          "aria-valuenow": Math.round(100 * this.cut),
          "aria-valuetext": `${Math.round(100 * this.cut)} percent of A`,
          style: `left: ${100 * this.cut}%`,
          onkeydown: (/** @type {KeyboardEvent} */ event) => this.wipeKey(event),
        }, icon("code")),
      h(
        "div",
        { key: "zoom", class: "zoom glass" },
        h("button", { class: "button round", "aria-label": "Zoom out", onclick: () => this.zoomTo(this.zoom / 1.5) }, icon("zoom_out")),
        h("span", null, `${Math.round(100 * this.zoom)} %`),
        h("button", { class: "button round", "aria-label": "Zoom in", onclick: () => this.zoomTo(this.zoom * 1.5) }, icon("zoom_in")),
      ),
    );
  }

  timeline() {
    return h("input", {
      key: "timeline",
      class: "timeline",
      type: "range",
      min: 0,
      max: this.frames - 1,
      step: 1,
      "aria-label": "Position",
      oninput: (/** @type {Event} */ event) => this.seek(Number(/** @type {HTMLInputElement} */ (event.target).value)),
    });
  }

  controls() {
    const button = (/** @type {string} */ symbol, /** @type {string} */ label, /** @type {() => void} */ act, more = {}) =>
      h("button", { class: "button round", "aria-label": label, title: label, onclick: act, ...more }, icon(symbol));
    return h(
      "div",
      { key: "controls", class: "controls row" },
      button("skip_previous", "One frame back", () => this.seek(this.frame - 1)),
      button(this.playing ? "pause" : "play_arrow", this.playing ? "Pause" : "Play", () => this.play(!this.playing), { class: "button round play" }),
      button("skip_next", "One frame on", () => this.seek(this.frame + 1)),
      h("span", { class: "position at" }),
      button("repeat", "Loop", () => this.setLoop(), { class: `button round ${this.loop ? "tinted" : ""}`, "aria-pressed": String(this.loop) }),
      h(
        "button",
        {
          class: "button",
          title: "Speed",
          onclick: () => {
            this.speed = SPEEDS[(SPEEDS.indexOf(this.speed) + 1) % SPEEDS.length] ?? 1;
            this.render();
          },
        },
        `${this.speed}×`,
      ),
      h("span", { class: "space" }),
      h("span", { class: "muted small keys" }, h("kbd", null, "A"), h("kbd", null, "B"), " show one, ", h("kbd", null, "←"), h("kbd", null, "→"), " one frame, ", h("kbd", null, "1"), " to ", h("kbd", null, "5"), ` rate ${LETTERS[this.hand]}`),
    );
  }

  /** What follows the clock, without `patch`. */
  moved() {
    const [at, timeline] = [this.place.querySelector(".at"), /** @type {HTMLInputElement | null} */ (this.place.querySelector("input.timeline"))];
    if (at) at.textContent = `${position(Math.min(this.time, this.seconds))} / ${position(this.seconds)} s · frame ${this.frame + 1} of ${this.frames}`;
    if (timeline) {
      timeline.value = String(this.frame);
      timeline.setAttribute("aria-valuetext", `${position(this.time)} seconds, frame ${this.frame + 1} of ${this.frames}`);
    }
  }

  /** @param {Job} a @param {Job} b */
  panel(a, b) {
    const [left, right] = [new Map(recipe(a)), new Map(recipe(b))];
    const names = [...new Set([...left.keys(), ...right.keys()])].filter((name) => name !== "Finished");
    const differs = (/** @type {string} */ name) => left.get(name) !== right.get(name);
    const equal = names.filter((name) => !differs(name));
    const shown = [...names.filter(differs), ...(this.all ? equal : [])];
    return h(
      "div",
      { key: "panel", class: "panel" },
      [a, b].map((job, index) =>
        h(
          "div",
          { key: `who ${index}`, class: "row spread" },
          h("span", { class: "row" }, letter(index), h("span", { class: "muted small" }, ago(job.finished_at ?? job.created_at))),
          stars(job.rating, ` of ${LETTERS[index]}`, (changes) => this.mark(index, changes)),
        ),
      ),
      h(
        "table",
        { key: "table", class: "card differs" },
        h("thead", null, h("tr", null, h("th", { scope: "col" }, "What differs"), h("th", { scope: "col" }, letter(0)), h("th", { scope: "col" }, letter(1)))),
        h(
          "tbody",
          null,
          shown.map((name) =>
            h("tr", { key: name, class: differs(name) ? "tint" : "" }, h("th", { scope: "row" }, name), h("td", null, left.get(name) ?? "none"), h("td", null, right.get(name) ?? "none")),
          ),
        ),
      ),
      equal.length > 0 &&
        h(
          "button",
          {
            key: "equal",
            class: "button",
            "aria-expanded": String(this.all),
            onclick: () => {
              this.all = !this.all;
              this.render();
            },
          },
          icon("filter_list"),
          this.all ? "Show only what differs" : `${equal.length} more are equal: show all`,
        ),
      note(this.jobs[this.hand] ?? b, (changes) => this.mark(this.hand, changes), `Note on ${LETTERS[this.hand]}`),
      h("button", { key: "mix", class: "button outlined", onclick: () => this.mix() }, icon("merge"), "B with A's prompt"),
      h("p", { key: "hint", class: "muted small" }, "Approved takes are marked and cannot be deleted."),
      h(
        "div",
        { key: "approve", class: "row approve" },
        [a, b].map((job, index) =>
          h(
            "button",
            { class: `button ${index ? "primary" : "outlined"}`, "aria-pressed": String(job.approved), onclick: () => this.mark(index, { approved: !job.approved }) },
            icon(job.approved ? "verified" : "check"),
            `${job.approved ? "Approved" : "Approve"} ${LETTERS[index]}`,
          ),
        ),
      ),
    );
  }

  close() {
    this.ids = "";
    for (const video of this.videos()) video.pause();
  }
}

/** @param {number} index */
const letter = (index) => h("b", { class: `letter ${LETTERS[index]}` }, String(LETTERS[index]));
