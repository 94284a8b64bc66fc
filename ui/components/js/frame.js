/**
 * The right end of the row of pages: the model picker, the device, the queue. It also speaks for the studio where nobody
 * looks: the tab's title and icon, a notification, a word at the foot of other pages; and it has the shortcuts of all pages.
 */

import { address, post } from "./api.js";
import "./bell.js"; // rings on every page
import { change, current, load, onForm } from "./draft.js";
import { h, icon, patch } from "./dom.js";
import { onKeys } from "./keys.js";
import { live, runningJob, subscribe } from "./live.js";
import { requestOf } from "./request.js";
import { rootOf } from "./theme.js";
import { counted, estimate } from "./words.js";

/** @typedef {import("./request.js").Model & {picture: string | null, memory_gib: number, fit: string, fits: boolean}} Row */
/**
 * @typedef {object} Data
 * @property {string} page @property {string} device @property {Row[]} models @property {string} automatic
 */

const NAME = "AI Video Generation Studio";
const PAGES = /** @type {Record<string, string>} */ ({ c: "create", q: "queue", g: "gallery", m: "models", s: "system" });
const AFTER_G_MS = 1500;
const MODULES = ["stage", "composer", "queue", "gallery", "models", "system"]; // of the pages
const SHORTCUTS = [
  ["Ctrl+Enter", "Generate"],
  ["Space", "Play or pause"],
  ["← →", "One frame back or on; with Shift one second"],
  ["Home End", "First or last frame"],
  ["L", "Loop"],
  ["S", "Save the frame"],
  ["F", "Full screen"],
  ["H", "Favourite"],
  ["E", "Extend"],
  ["V", "Variations"],
  ["↑", "Earlier prompts, in an empty prompt"],
  ["/", "Search the gallery"],
  ["G then C, Q, G, M, S", "Create, Queue, Gallery, Models, System"],
  ["?", "This list"],
];

class Frame {
  /** @param {HTMLElement} root @param {import("./types").Component<Data>} component */
  constructor(root, component) {
    this.root = root;
    this.component = component;
    this.picking = false;
    this.helping = false;
    /** @type {Record<string, string>} the time of the form for each model */
    this.times = {};
    /** @type {{words: string, id: string} | null} */
    this.toast = null;
    /** @type {Map<string, string>} the states of jobs as they were last seen */
    this.seen = new Map();
    this.afterG = 0;
    this.icon = /** @type {HTMLLinkElement | null} */ (document.querySelector("link[rel~=icon]"))?.href ?? "";
    const ends = [subscribe(() => this.follow()), onForm(() => this.render()), onKeys((key) => this.key(key))];
    this.end = () => ends.forEach((end) => end());
    load();
    this.render();
  }

  get model() {
    const { models, automatic } = this.component.data;
    return models.find((row) => row.id === current().model) ?? models.find((row) => row.id === automatic) ?? models[0];
  }

  follow() {
    for (const job of live.jobs.values()) {
      const before = this.seen.get(job.id);
      if (before && before !== job.state && job.kind === "render") {
        if (job.state === "succeeded") this.tell(`Ready: ${job.title}`, job.id);
        else if (job.state === "failed" || job.state === "quarantined") this.tell(`Stopped: ${job.title}`, job.id);
      }
      this.seen.set(job.id, job.state);
    }
    this.drawTab();
    this.render();
  }

  /** @param {string} words @param {string} id */
  tell(words, id) {
    if (this.component.data.page !== "create") this.toast = { words, id };
    if (!document.hidden) return; // not in the tab that one looks at
    this.spoken = words;
    if (window.Notification?.permission === "granted") new Notification(words, { icon: this.icon, tag: id });
  }

  /** The percent in the tab's title, and a ring in its icon. */
  drawTab() {
    const job = runningJob();
    const part = job?.progress?.fraction ?? 0;
    if (!document.hidden) this.spoken = undefined;
    const title = job ? `${Math.floor(100 * part)} % · Studio` : (this.spoken ?? NAME);
    if (document.title !== title) document.title = title;
    const link = /** @type {HTMLLinkElement | null} */ (document.querySelector("link[rel~=icon]"));
    if (!link) return;
    const shown = job ? ring(part) : this.icon;
    if (link.href !== shown) link.href = shown;
  }

  render() {
    const active = live.order.map((id) => live.jobs.get(id)).filter((job) => job !== undefined);
    const running = active.find((job) => job.state === "running");
    const waiting = live.order.length - (running ? 1 : 0);
    const percent = Math.floor(100 * (running?.progress?.fraction ?? 0));
    const queue = running ? `${percent} %${waiting ? ` · ${waiting} waiting` : ""}` : waiting ? (live.paused ? `Paused · ${waiting} waiting` : counted(waiting, "job")) : "Queue empty";
    const { device } = this.component.data;
    const model = this.model;
    patch(this.root, [
      h(
        "div",
        { key: "row", class: "row chips" },
        model &&
          h(
            "div",
            { key: "picker", class: "picker" },
            h(
              "button",
              { class: "button outlined pick", "aria-haspopup": "listbox", "aria-expanded": String(this.picking), "aria-label": `Model: ${model.title}, ${model.fit}`, onclick: () => this.pick() },
              model.picture && h("img", { src: address(model.picture), alt: "" }),
              h("b", null, model.title),
              h("span", { class: `fit ${model.fits ? "good-text" : "caution-text"}` }, model.fits && icon("check"), model.fit),
              icon("expand_more"),
            ),
            this.picking && this.list(),
          ),
        h("span", { key: "device", class: "chip-like device" }, icon("memory"), device),
        h(
          "button",
          { key: "queue", class: "button outlined", onclick: () => this.go("queue") },
          running ? h("span", { class: "ring", style: `--part: ${percent}%` }) : icon("list_alt"),
          h("span", { class: "spoken" }, "Queue: "),
          h("span", { class: "words" }, queue),
          h("span", { class: "count" }, live.order.length, h("span", { class: "spoken" }, `${live.order.length === 1 ? " job" : " jobs"}${running ? `, ${percent} %` : ""}`)),
        ),
        h("button", { key: "help", class: "button round", "aria-label": "Help and shortcuts", title: "Help and shortcuts", onclick: () => this.help() }, icon("help")),
      ),
      this.toast && this.toastBar(this.toast),
      this.helping && this.helpDialog(),
    ]);
  }

  /** @param {string} page @param {Record<string, string>} [query] */
  go(page, query = {}) {
    this.component.setTriggerValue("go", { page, query });
  }

  async pick() {
    this.picking = !this.picking;
    this.render();
    if (!this.picking) return;
    /** @type {HTMLElement | null} */ (this.root.querySelector("[aria-selected=true]"))?.focus();
    const { models } = this.component.data;
    await Promise.all(
      models.map(async (row) => {
        const request = { ...requestOf({ ...current(), prompt: current().prompt || "-" }, row), model: row.id };
        const time = await post("/plan", request).then((plan) => `about ${estimate(plan.forecast_s)}`, (error) => error.message);
        this.times = { ...this.times, [row.id]: time };
      }),
    );
    this.render();
  }

  list() {
    const { models, automatic } = this.component.data;
    const chosen = current().model ?? "auto";
    const usual = models.find((row) => row.id === automatic);
    const rows = [{ id: "auto", title: "Automatic", about: usual ? `picks ${usual.title}` : "", row: usual }, ...models.map((row) => ({ id: row.id, title: row.title, about: row.fit, row }))];
    const choose = (/** @type {string} */ id) => {
      this.picking = false;
      change({ model: id === "auto" ? null : id });
      /** @type {HTMLElement | null} */ (this.root.querySelector(".pick"))?.focus();
    };
    const keys = (/** @type {KeyboardEvent} */ event) => {
      const options = [.../** @type {NodeListOf<HTMLElement>} */ (this.root.querySelectorAll("[role=option]"))];
      const at = options.indexOf(/** @type {HTMLElement} */ (event.composedPath()[0]));
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: options.length - 1 }[event.key];
      if (event.key === "Escape") choose(chosen);
      else if (to === undefined) return;
      else options[(to + options.length) % options.length]?.focus();
      event.preventDefault();
      event.stopPropagation();
    };
    const left = (/** @type {FocusEvent} */ event) => {
      if (/** @type {HTMLElement} */ (event.currentTarget).parentElement?.contains(/** @type {Node} */ (event.relatedTarget))) return;
      this.picking = false;
      this.render();
    };
    return h(
      "div",
      { class: "menu models", role: "listbox", "aria-label": "Model", onkeydown: keys, onfocusout: left },
      ...rows.map(({ id, title, about, row }) =>
        h(
          "button",
          { key: id, class: "button option", role: "option", "aria-selected": String(id === chosen), onclick: () => choose(id) },
          row?.picture ? h("img", { src: address(row.picture), alt: "" }) : h("span", { class: "no-picture" }, icon("movie")),
          h(
            "span",
            { class: "what" },
            h("b", null, title),
            h("span", { class: `small ${row && !row.fits ? "caution-text" : "muted"}` }, [about, id === "auto" ? "" : this.times[id]].filter(Boolean).join(" · ")),
            row && id !== "auto" && h("span", { class: "row" }, ...row.modes.map((mode) => h("span", { key: mode, class: "chip" }, { text_to_video: "text", image_to_video: "image", video_extension: "extend" }[mode] ?? mode))),
          ),
          id === chosen && icon("check"),
        ),
      ),
    );
  }

  /** @param {{words: string, id: string}} toast */
  toastBar(toast) {
    const close = () => {
      this.toast = null;
      this.render();
    };
    const open = () => {
      close();
      this.go(toast.words.startsWith("Ready") ? "gallery" : "create", toast.words.startsWith("Ready") ? { video: toast.id } : {});
    };
    return h(
      "div",
      { key: "toast", class: "toast card row", role: "status" },
      h("span", { class: "clip" }, toast.words),
      h("button", { class: "button tinted", onclick: open }, "Open"),
      h("button", { class: "button round", "aria-label": "Close", onclick: close }, icon("close")),
    );
  }

  help() {
    this.helping = !this.helping;
    this.render();
    /** @type {HTMLElement | null} */ (this.root.querySelector(this.helping ? ".help button" : "[aria-label='Help and shortcuts']"))?.focus();
  }

  helpDialog() {
    const keys = (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") this.help();
      else if (event.key === "Tab") {
        const stops = [.../** @type {NodeListOf<HTMLElement>} */ (this.root.querySelectorAll(".help a, .help button"))];
        const at = stops.indexOf(/** @type {HTMLElement} */ (event.composedPath()[0])) + (event.shiftKey ? -1 : 1);
        stops[(at + stops.length) % stops.length]?.focus();
      } else return;
      event.preventDefault();
      event.stopPropagation();
    };
    return h(
      "div",
      { key: "help", class: "backdrop", onclick: (/** @type {MouseEvent} */ event) => event.target === event.currentTarget && this.help() },
      h(
        "div",
        { class: "card help", role: "dialog", "aria-modal": "true", "aria-label": "Help and shortcuts", onkeydown: keys },
        h("div", { class: "row spread" }, h("h2", { class: "title" }, "Help"), h("button", { class: "button round", "aria-label": "Close", onclick: () => this.help() }, icon("close"))),
        h("p", null, "Everything runs on this machine; nothing leaves it. Press Generate and go on working: what you type is kept, and every render continues after a restart."),
        h("h3", { class: "section" }, "Keyboard"),
        h("dl", null, ...SHORTCUTS.flatMap(([keys_, what]) => [h("dt", null, h("kbd", null, keys_)), h("dd", null, what)])),
        h("p", { class: "row" }, h("a", { class: "button outlined", href: address("docs"), target: "_blank", rel: "noopener" }, icon("code"), "REST API")),
      ),
    );
  }

  /** @param {string} key @returns {boolean} */
  key(key) {
    if (key === "?") this.help();
    else if (key === "g" && performance.now() - this.afterG > AFTER_G_MS) this.afterG = performance.now();
    else if (PAGES[key] && performance.now() - this.afterG <= AFTER_G_MS) {
      this.afterG = 0;
      this.go(PAGES[key]);
    } else return false;
    return true;
  }
}

/** An icon with a ring. @param {number} part 0 to 1 */
function ring(part) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 32;
  const pen = canvas.getContext("2d");
  if (!pen) return "";
  for (const [colour, until] of /** @type {[string, number][]} */ ([["#c9cdf0", 1], ["#667eea", Math.round(20 * part) / 20]])) {
    pen.beginPath();
    pen.strokeStyle = colour;
    pen.lineWidth = 7;
    pen.arc(16, 16, 12, -Math.PI / 2, -Math.PI / 2 + 2 * Math.PI * until);
    pen.stroke();
  }
  return canvas.toDataURL();
}

/** Fetch the modules of all pages while nothing else goes on, so that another page opens at once. */
function readAhead() {
  const later = window.requestIdleCallback ?? ((/** @type {() => void} */ read) => setTimeout(read, 500));
  later(() => MODULES.forEach((name) => import(`./${name}.js`).catch(() => {})));
}

/** @type {WeakMap<ShadowRoot, Frame>} */
const frames = new WeakMap();

/** @param {import("./types").Component<Data>} component */
export default function show(component) {
  const root = rootOf(component.parentElement, "frame");
  let frame = frames.get(component.parentElement);
  if (!frame) {
    frames.set(component.parentElement, (frame = new Frame(root, component)));
    readAhead();
  }
  frame.component = component;
  frame.render();
  return () => {
    frame?.end();
    frames.delete(component.parentElement);
  };
}
