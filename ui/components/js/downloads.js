/** The panel of models on their way from the hub: progress, speed, time left; pause, resume, cancel; and what the hub learns. */

import { post } from "./api.js";
import { h, icon } from "./dom.js";
import { live } from "./live.js";
import { estimate, size } from "./words.js";

/** @typedef {import("./types").Download} Download */

export class Downloads {
  /** @param {{changed: () => void, act: (work: () => Promise<unknown>) => void}} page */
  constructor(page) {
    this.page = page;
    /** The id of the download that is cancelled once somebody has said so again. */
    this.sure = "";
  }

  /** Bytes a second at which models come now; 0 where that is not known. */
  get speed() {
    return live.downloads.reduce((sum, one) => sum + (one.state === "running" ? one.bytes_per_s : 0), 0);
  }

  /** @param {boolean} offline whether downloads are switched off @param {number | undefined} free bytes of the disk */
  view(offline, free) {
    const { downloads } = live;
    return h(
      "aside",
      { key: "downloads", class: "card downloads", "aria-label": "Downloads" },
      h(
        "div",
        { class: "row spread" },
        h("h2", { class: "section" }, downloads.length ? "Downloading" : "Downloads", downloads.length > 0 && h("span", { class: "muted small" }, ` ${downloads.length}`)),
        h("span", { class: "muted small" }, this.speed ? `${size(this.speed)}/s` : free === undefined ? "" : `${size(free)} free`),
      ),
      downloads.length > 0
        ? h("ul", { class: "list", role: "list" }, downloads.map((one) => this.row(one, offline)))
        : h("p", { class: "muted" }, "Nothing is being downloaded."),
      h(
        "p",
        { class: "note small" },
        icon(offline ? "cloud_off" : "shield"),
        h(
          "span",
          null,
          offline
            ? "Downloads are switched off by HF_HUB_OFFLINE. Everything that is installed works without a network."
            : "Downloads come from Hugging Face, which sees the request; nothing else leaves this machine. Each model has its own licence: read it first.",
        ),
      ),
    );
  }

  /** @param {Download} one @param {boolean} offline */
  row(one, offline) {
    const stopped = one.state === "paused" || one.state === "failed";
    const percent = Math.floor(100 * Math.min(1, one.fraction));
    const send = (/** @type {string} */ action) => () => this.page.act(() => post(`/downloads/${encodeURIComponent(one.id)}/${action}`));
    return h(
      "li",
      { key: one.id, class: "download" },
      h("div", { class: "row spread" }, h("b", { class: "clip", title: one.title }, one.title), h("span", null, `${percent} %`)),
      h(
        "div",
        { class: "row" },
        h(
          "span",
          { class: `meter ${stopped ? "still" : ""}`, role: "progressbar", "aria-label": one.title, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": percent },
          h("i", { style: `width: ${percent}%` }),
        ),
        stopped
          ? h("button", { key: "go", class: "button tinted dense", disabled: offline, "aria-label": `Resume ${one.title}`, onclick: send("resume") }, icon("play_arrow"), "Resume")
          : h("button", { key: "go", class: "button round", "aria-label": `Pause ${one.title}`, title: "Pause", onclick: send("pause") }, icon("pause")),
        h("button", { key: "cancel", class: "button round", "aria-label": `Cancel ${one.title}`, title: "Cancel", onclick: () => this.cancel(one) }, icon("close")),
      ),
      h("p", { class: "muted small" }, progressWords(one)),
      one.error && h("p", { class: "fault small" }, icon("error"), h("span", null, one.error)),
      this.sure === one.id && this.question(one),
    );
  }

  /** What was fetched is deleted: asked about where that is much to fetch again. @param {Download} one */
  cancel(one) {
    if (one.bytes_done > 0 && this.sure !== one.id) {
      this.sure = one.id;
      this.page.changed();
      return;
    }
    this.sure = "";
    this.page.act(async () => {
      await post(`/downloads/${encodeURIComponent(one.id)}/cancel`);
      live.downloads = live.downloads.filter((other) => other.id !== one.id); // before the studio tells of it
    });
  }

  /** @param {Download} one */
  question(one) {
    const keep = () => {
      this.sure = "";
      this.page.changed();
    };
    return h(
      "div",
      { key: "sure", class: "row sure", role: "group", "aria-label": `Cancel ${one.title}` },
      h("span", { class: "small" }, `Delete the ${size(one.bytes_done)} that are here?`),
      h("button", { class: "button outlined dense bad", onclick: () => this.cancel(one) }, "Delete"),
      h("button", { class: "button dense", onclick: keep }, "Keep"),
    );
  }
}

/** @param {Download} one */
function progressWords(one) {
  const { state, bytes_done, bytes_total, eta_s } = one;
  const named = { queued: "Queued", paused: "Paused", failed: "Stopped", running: bytes_total ? "" : "Contacting Hugging Face" }[state];
  const amount = bytes_total ? `${size(bytes_done)} of ${size(bytes_total)}` : "";
  const left = state === "running" && eta_s !== null ? `about ${estimate(eta_s)} left` : "";
  return [named, amount, left].filter(Boolean).join(" · ");
}
