/**
 * A player: the picture in an area of fixed ratio, a timeline of its own frames, and a row of controls. Frames count from 0;
 * a frame is shown at the middle of its time, so that every browser shows that one.
 */

import { h, icon, patch } from "./dom.js";
import { saveBlob } from "./save.js";
import { calm } from "./theme.js";
import { position } from "./words.js";

/** @typedef {import("./dom.js").Child} Child */
/** @typedef {{url: string, fps: number, frames: number, alt: string, poster?: string}} Source */
/** @typedef {{until: number, tone: "done" | "making" | "coming", label?: string}} Span a part of the timeline, until a
 * fraction of it */
/**
 * @typedef {object} Parts what a page adds to the player
 * @property {() => Child[]} [overlay] over the picture
 * @property {() => Child[]} [picture] instead of the video, as long as it gives something
 * @property {() => Span[]} [spans] of the timeline; all of it is done by default
 * @property {() => Child} [words] instead of the position
 * @property {() => Child[]} [actions] at the end of the row of controls
 */

const STRIP_FRAMES = 14;
const SPEEDS = [1, 0.5, 0.25, 2];

export class Player {
  /** @param {HTMLElement} place @param {Parts} parts */
  constructor(place, parts = {}) {
    this.place = place;
    this.parts = parts;
    /** @type {Source | null} */
    this.source = null;
    this.loop = true;
    this.muted = true;
    this.speed = 1;
    this.dragging = false;
    /** @type {AbortController | null} */
    this.strip = null;
    this.video = document.createElement("video");
    Object.assign(this.video, { muted: true, loop: true, playsInline: true, preload: "auto" });
    for (const name of ["play", "pause", "timeupdate", "seeked", "loadedmetadata", "error", "ended"]) {
      this.video.addEventListener(name, () => this.moved());
    }
    this.tick = () => {
      this.moved();
      if (!this.video.paused) requestAnimationFrame(this.tick);
    };
    this.video.addEventListener("playing", () => requestAnimationFrame(this.tick));
  }

  /** Show another video, or none; the same one goes on. @param {Source | null} source @param {boolean} [play] */
  open(source, play = true) {
    if (source?.url === this.source?.url) return;
    this.source = source;
    this.strip?.abort();
    if (!source) {
      this.video.removeAttribute("src");
      this.video.load();
    } else {
      this.video.poster = source.poster ?? "";
      this.video.setAttribute("aria-label", source.alt);
      this.video.src = source.url;
      this.video.playbackRate = this.speed;
      if (play && !calm()) this.play();
    }
    this.render();
    this.drawStrip(source);
  }

  /** End what runs by itself. */
  close() {
    this.strip?.abort();
    this.video.pause();
  }

  play() {
    this.video.play().catch(() => {}); // a browser may refuse, and the button is still there
  }

  toggle() {
    if (this.video.paused) this.play();
    else this.video.pause();
  }

  /** The frame that is shown. */
  get frame() {
    if (!this.source) return 0;
    return Math.min(this.source.frames - 1, Math.max(0, Math.floor(this.video.currentTime * this.source.fps + 1e-3)));
  }

  /** @param {number} frame */
  seek(frame) {
    if (!this.source) return;
    const last = this.source.frames - 1;
    this.video.currentTime = (Math.min(last, Math.max(0, Math.round(frame))) + 0.5) / this.source.fps;
  }

  /** Stand still, `frames` further or back. @param {number} frames */
  step(frames) {
    this.video.pause();
    this.seek(this.frame + frames);
  }

  /** @param {boolean} loop */
  setLoop(loop) {
    this.loop = this.video.loop = loop;
    this.render();
  }

  nextSpeed() {
    this.speed = SPEEDS[(SPEEDS.indexOf(this.speed) + 1) % SPEEDS.length] ?? 1;
    this.video.playbackRate = this.speed;
    this.render();
  }

  toggleSound() {
    this.muted = this.video.muted = !this.muted;
    this.render();
  }

  toggleFullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.place.querySelector(".area")?.requestFullscreen?.();
  }

  /** The frame that is shown, as a PNG. @returns {Promise<Blob>} */
  still() {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.video.videoWidth, this.video.videoHeight];
    canvas.getContext("2d")?.drawImage(this.video, 0, 0);
    return new Promise((resolve, reject) =>
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The frame cannot be read."))), "image/png"),
    );
  }

  /** Save the frame that is shown as a PNG file. @param {string} stem of its name */
  async saveFrame(stem) {
    saveBlob(await this.still(), `${stem}-frame-${this.frame + 1}.png`);
  }

  /** Act on a key; whether it was one of the player's. @param {string} key @returns {boolean} */
  key(key) {
    const fps = Math.round(this.source?.fps ?? 24);
    /** @type {Record<string, () => void>} */
    const keys = {
      " ": () => this.toggle(),
      ArrowLeft: () => this.step(-1),
      ArrowRight: () => this.step(1),
      "Shift+ArrowLeft": () => this.step(-fps),
      "Shift+ArrowRight": () => this.step(fps),
      Home: () => this.step(-this.frame),
      End: () => this.step((this.source?.frames ?? 1) - 1 - this.frame),
      l: () => this.setLoop(!this.loop),
      f: () => this.toggleFullScreen(),
    };
    if (!this.source || !(key in keys)) return false;
    keys[key]?.();
    return true;
  }

  // --- how it looks ---

  render() {
    patch(this.place, [this.area(), this.timeline(), this.controls()]);
    const holder = this.place.querySelector(".holder");
    if (holder && this.video.parentElement !== holder) holder.append(this.video);
    this.moved();
  }

  area() {
    const picture = this.parts.picture?.() ?? [];
    return h(
      "div",
      { key: "area", class: "area" },
      h("div", { key: "holder", class: "holder", hidden: picture.length > 0 || !this.source }),
      picture.length > 0 && h("div", { key: "picture", class: "picture" }, ...picture),
      h("div", { key: "overlay", class: "overlay" }, ...(this.parts.overlay?.() ?? [])),
    );
  }

  timeline() {
    const frames = this.source?.frames ?? 0;
    let from = 0;
    const spans = (this.parts.spans?.() ?? []).map((span) => {
      // Clipped and moved, not resized: that would count as a shift of the layout many times a second.
      const style = `clip-path: inset(0 ${100 - 100 * span.until}% 0 ${100 * from}%)`;
      const middle = `transform: translateX(calc(${50 * (from + span.until)}cqw - 50%))`;
      from = span.until;
      return h("span", { class: `span ${span.tone}`, style }, h("span", { class: "label", style: middle }, span.label ?? ""));
    });
    return h(
      "div",
      {
        key: "timeline",
        class: "timeline",
        role: "slider",
        tabindex: frames ? 0 : -1,
        "aria-label": "Position",
        "aria-valuemin": 1,
        "aria-valuemax": Math.max(1, frames),
        "aria-disabled": frames ? undefined : "true",
        onpointerdown: (/** @type {PointerEvent} */ event) => this.drag(event),
        onkeydown: (/** @type {KeyboardEvent} */ event) => {
          const key = (event.shiftKey ? "Shift+" : "") + event.key;
          if (/^(Shift\+)?(Arrow(Left|Right)|Home|End)$/.test(key) && this.key(key)) event.preventDefault();
        },
      },
      h("canvas", { key: "strip", class: "strip", "aria-hidden": "true" }),
      ...spans,
      h("span", { key: "playhead", class: "playhead", hidden: !frames }),
    );
  }

  /** Symbol and name of the button that plays and pauses. @returns {[string, string]} */
  get playWords() {
    return this.video.paused ? ["play_arrow", "Play"] : ["pause", "Pause"];
  }

  controls() {
    const none = !this.source;
    const button = (/** @type {string} */ symbol, /** @type {string} */ label, /** @type {() => void} */ act, more = {}) =>
      h("button", { class: "button round", "aria-label": label, title: label, onclick: act, disabled: none, ...more }, icon(symbol));
    const speed = this.speed === 1 ? "1×" : `${this.speed}×`;
    return h(
      "div",
      { key: "controls", class: "controls row" },
      button("skip_previous", "One frame back", () => this.step(-1), { key: "back" }),
      h(
        "button",
        { key: "play", class: "button round play", "aria-label": this.playWords[1], onclick: () => this.toggle(), disabled: none },
        icon(this.playWords[0]),
      ),
      button("skip_next", "One frame on", () => this.step(1), { key: "on" }),
      h("span", { key: "words", class: "position" }, this.parts.words?.() ?? h("span", { class: "at" })),
      button("repeat", "Loop", () => this.setLoop(!this.loop), {
        key: "loop",
        class: `button round ${this.loop ? "tinted" : ""}`,
        "aria-pressed": String(this.loop),
      }),
      h(
        "button",
        { key: "speed", class: "button", "aria-label": `Speed ${this.speed}`, title: "Speed", onclick: () => this.nextSpeed(), disabled: none },
        speed,
      ),
      h("span", { key: "space", class: "space" }),
      ...(this.parts.actions?.() ?? []),
    );
  }

  /** What follows the position, many times a second: without `patch`. */
  moved() {
    const find = (/** @type {string} */ of) => /** @type {HTMLElement | null} */ (this.place.querySelector(of));
    const [playhead, at, timeline, play] = [find(".playhead"), find(".at"), find(".timeline"), find(".play")];
    const { frames = 0, fps = 24 } = this.source ?? {};
    const frame = this.frame;
    const words = frames ? `${position(this.video.currentTime)} / ${position(frames / fps)} s · frame ${frame + 1} of ${frames}` : "";
    if (at && at.textContent !== words) at.textContent = words;
    if (playhead && timeline) playhead.style.transform = `translateX(${frames > 1 ? (100 * frame) / (frames - 1) : 0}cqw)`;
    timeline?.setAttribute("aria-valuenow", String(frame + 1));
    timeline?.setAttribute("aria-valuetext", frames ? `${position(this.video.currentTime)} seconds, frame ${frame + 1} of ${frames}` : "Nothing to play");
    if (play) {
      const [symbol, label] = this.playWords;
      play.setAttribute("aria-label", label);
      const shown = play.querySelector(".icon");
      if (shown?.firstChild && shown.firstChild.nodeValue !== symbol) shown.firstChild.nodeValue = symbol;
    }
  }

  /** @param {PointerEvent} event */
  drag(event) {
    const timeline = /** @type {HTMLElement} */ (event.currentTarget);
    if (!this.source) return;
    const playing = !this.video.paused;
    this.video.pause();
    timeline.setPointerCapture(event.pointerId);
    const follow = (/** @type {PointerEvent} */ at) => {
      const box = timeline.getBoundingClientRect();
      this.seek(((at.clientX - box.left) / box.width) * ((this.source?.frames ?? 1) - 1));
    };
    follow(event);
    timeline.onpointermove = follow;
    timeline.onpointerup = timeline.onpointercancel = () => {
      timeline.onpointermove = timeline.onpointerup = timeline.onpointercancel = null;
      if (playing) this.play();
    };
  }

  /** Draw the video's own frames into the timeline, from a second reading of it. @param {Source | null} source */
  async drawStrip(source) {
    const mine = (this.strip = new AbortController());
    const canvas = /** @type {HTMLCanvasElement | null} */ (this.place.querySelector(".strip"));
    if (!canvas) return;
    canvas.width = canvas.width + 0; // clears it
    if (!source) return;
    const reader = document.createElement("video");
    Object.assign(reader, { muted: true, preload: "auto", src: source.url });
    const told = (/** @type {string} */ name) =>
      new Promise((resolve, reject) => {
        reader.addEventListener(name, resolve, { once: true });
        reader.addEventListener("error", reject, { once: true });
        mine.signal.addEventListener("abort", reject, { once: true });
      });
    try {
      await told("loadeddata");
      const box = canvas.getBoundingClientRect();
      const height = 2 * Math.max(1, Math.round(box.height));
      const width = Math.max(1, Math.round((height * reader.videoWidth) / reader.videoHeight));
      const count = Math.max(2, Math.min(4 * STRIP_FRAMES, Math.ceil((2 * box.width) / width)));
      [canvas.width, canvas.height] = [count * width, height];
      for (let number = 0; number < count; number++) {
        const sought = told("seeked");
        reader.currentTime = (Math.floor(((number + 0.5) / count) * source.frames) + 0.5) / source.fps;
        await sought;
        canvas.getContext("2d")?.drawImage(reader, number * width, 0, width, height);
      }
    } catch {
      /* another video was opened, or this one is gone: the area says so */
    } finally {
      reader.removeAttribute("src");
      reader.load();
    }
  }
}
