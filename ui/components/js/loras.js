/** LoRAs: what each changes and fits, how strongly it is used in the next video, and how files come and go. */

import { ask, get, post, upload } from "./api.js";
import { h, icon } from "./dom.js";
import { change, current } from "./draft.js";
import { counted, size } from "./words.js";

/** @typedef {import("./types").LoraRow} Lora */
/** @typedef {{name: string, strength: number[]}} Use in the draft; a strength for each window, or one for all */
/** @typedef {{key: number, name: string, part: number, error: string, stop: () => void}} Sent a file on its way, or refused */
/** @typedef {{id: string, title: string}} Model */

const SUFFIX = ".safetensors";
const [WEAKEST, STRONGEST] = [-1, 2];

export class Loras {
  /** @param {{changed: () => void, act: (work: () => Promise<unknown>) => void, notice: import("./notice.js").Notice}} page */
  constructor(page) {
    this.page = page;
    /** @type {Lora[]} */
    this.rows = [];
    /** @type {Record<string, string>} files that are none, and why */
    this.refused = {};
    /** @type {string[]} */
    this.trashed = [];
    /** @type {Map<string, number[]>} strengths of those that are off */
    this.strengths = new Map();
    /** @type {Sent[]} */
    this.sent = [];
    this.count = 0;
  }

  async load() {
    const { loras, refused, trashed } = await get("/loras");
    [this.rows, this.refused, this.trashed] = [loras, refused, trashed];
  }

  // --- the draft ---

  /** @returns {Use[]} */
  get uses() {
    return (current().loras ?? []).map((/** @type {any} */ use) => ({ name: use.name, strength: [use.strength ?? 1].flat() }));
  }

  /** Use a LoRA with these strengths, or not. @param {string} name @param {number[] | null} strength */
  put(name, strength) {
    const { uses } = this;
    const before = uses.find((use) => use.name === name);
    if (before) this.strengths.set(name, before.strength);
    if (strength) this.strengths.set(name, strength);
    const next = strength && before ? uses.map((use) => (use.name === name ? { name, strength } : use)) : uses.filter((use) => use.name !== name);
    if (strength && !before) next.push({ name, strength });
    change({ loras: next.length ? next : null });
  }

  // --- files ---

  /** @param {Iterable<File>} files */
  async add(files) {
    for (const file of files) await this.send(file);
  }

  /** @param {File} file */
  async send(file) {
    const abort = new AbortController();
    /** @type {Sent} */
    const one = { key: ++this.count, name: file.name, part: 0, error: "", stop: () => abort.abort() };
    const done = () => {
      this.sent = this.sent.filter((other) => other !== one);
      this.page.changed();
    };
    this.sent.push(one);
    if (!file.name.toLowerCase().endsWith(SUFFIX)) {
      Object.assign(one, { error: `${file.name} is not a safetensors file. Try a LoRA that ends in ${SUFFIX}.`, stop: done });
      this.page.changed();
      return;
    }
    this.page.changed();
    abort.signal.addEventListener("abort", done);
    const told = (/** @type {number} */ part) => {
      one.part = part;
      this.page.changed();
    };
    try {
      const lora = await upload(file, file.name, told, abort.signal, "api/v1/loras");
      await this.load();
      done();
      this.page.notice.say(`Added ${lora.name}.`);
    } catch (error) {
      Object.assign(one, { error: error instanceof Error ? error.message : String(error), stop: done });
      this.page.changed();
    }
  }

  /** @param {Lora} lora */
  remove(lora) {
    const use = this.uses.find((one) => one.name === lora.name);
    this.page.act(async () => {
      await ask("DELETE", `/loras/${encodeURIComponent(lora.name)}`);
      if (use) this.put(lora.name, null);
      await this.load();
      this.page.notice.say(`Moved ${lora.name} to the trash.`, () => this.restore(lora.name, use?.strength));
    });
  }

  /** @param {string} name @param {number[]} [strength] with which it was used */
  restore(name, strength) {
    this.page.act(async () => {
      await post(`/loras/${encodeURIComponent(name)}/restore`);
      await this.load();
      if (strength) this.put(name, strength);
      this.page.changed();
    });
  }

  /** @param {string} words */
  async copy(words) {
    try {
      await navigator.clipboard.writeText(words);
      this.page.notice.say(`Copied "${words}". Paste it into the prompt.`);
    } catch {
      this.page.notice.say(`The browser does not allow copying here. Type it into the prompt: ${words}`);
    }
  }

  // --- how it looks ---

  /** @param {string} search @param {Model[]} models that are installed @param {Model | undefined} model in use */
  view(search, models, model) {
    const rows = this.rows.filter((lora) => [lora.name, ...lora.trigger_words].join(" ").toLowerCase().includes(search));
    const on = this.uses.filter((use) => this.rows.some((lora) => lora.name === use.name)).length;
    const pick = (/** @type {Event} */ event) => {
      const input = /** @type {HTMLInputElement} */ (event.target);
      this.add([...(input.files ?? [])]);
      input.value = "";
    };
    return h(
      "section",
      { key: "loras", "aria-label": "LoRAs" },
      h(
        "div",
        { class: "row line" },
        h("h2", { class: "section" }, "LoRAs"),
        h("span", { class: "muted small" }, this.rows.length ? `${this.rows.length}, ${on || "none"} on` : ""),
        h("span", { class: "space" }),
        h("button", { class: "button outlined", onclick: (/** @type {Event} */ event) => /** @type {HTMLElement} */ (event.currentTarget).parentElement?.querySelector("input")?.click() }, icon("add"), "Add LoRA"),
        h("input", { type: "file", class: "spoken", accept: SUFFIX, multiple: true, tabindex: -1, "aria-label": "LoRA files", onchange: pick }),
      ),
      this.sent.map((one) => this.sentRow(one)),
      Object.entries(this.refused).map(([name, reason]) => h("p", { key: `no-${name}`, class: "warning" }, icon("block"), h("span", null, h("b", null, name), ` cannot be used: ${reason}.`))),
      rows.length > 0 && h("ul", { key: "rows", class: "grid", role: "list" }, rows.map((lora) => this.card(lora, models, model))),
      !this.rows.length && !this.sent.length && h("p", { key: "empty", class: "nothing muted" }, icon("style"), h("span", null, "A LoRA adds a style, a subject or a motion to a model. Drop a safetensors file anywhere on this page, or copy it into models/loras/. Files are checked before use.")),
      this.rows.length > 0 && !rows.length && h("p", { key: "none", class: "muted" }, "No LoRA matches."),
    );
  }

  /** @param {Sent} one */
  sentRow(one) {
    if (one.error) return h("p", { key: `sent-${one.key}`, class: "warning", role: "alert" }, icon("error"), h("span", null, one.error), h("button", { class: "button round", "aria-label": "Close", onclick: one.stop }, icon("close")));
    const percent = Math.floor(100 * one.part);
    return h(
      "div",
      { key: `sent-${one.key}`, class: "row sending" },
      h("span", { class: "clip" }, percent < 100 ? `Adding ${one.name}` : `Checking ${one.name}`),
      h("span", { class: "meter", role: "progressbar", "aria-label": `Adding ${one.name}`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": percent }, h("i", { style: `width: ${percent}%` })),
      h("button", { class: "button round", "aria-label": `Stop adding ${one.name}`, onclick: one.stop }, icon("close")),
    );
  }

  /** @param {Lora} lora @param {Model[]} models @param {Model | undefined} model in use */
  card(lora, models, model) {
    const use = this.uses.find((one) => one.name === lora.name);
    const strength = use?.strength ?? this.strengths.get(lora.name) ?? [1];
    const reason = model ? lora.fits[model.id] : null;
    const fitting = models.filter((one) => lora.fits[one.id] === null);
    const words = strength.map((one) => one.toFixed(strength.length > 1 ? 1 : 2)).join(", ");
    const flip = () => this.put(lora.name, use ? null : strength);
    const slide = (/** @type {Event} */ event) => this.put(lora.name, [Number(/** @type {HTMLInputElement} */ (event.target).value)]);
    return h(
      "li",
      { key: lora.name, class: `card lora ${use ? "" : "off"}`, "aria-label": lora.name },
      h(
        "div",
        { class: "row spread" },
        h("h3", { class: "section clip", title: lora.name }, lora.name),
        h("span", { class: "space" }),
        lora.removable && h("button", { key: "remove", class: "button round dense muted", "aria-label": `Remove ${lora.name}`, title: "Remove", onclick: () => this.remove(lora) }, icon("delete")),
        h("button", { class: "switch", role: "switch", "aria-checked": String(Boolean(use)), "aria-label": `Use ${lora.name}`, disabled: Boolean(reason) && !use, title: reason ?? "", onclick: flip }, h("i")),
      ),
      lora.trigger_words.length > 0 && h("div", { class: "triggers" }, lora.trigger_words.map((word) => h("button", { key: word, class: "chip trigger", title: "Copy", "aria-label": `Copy ${word}`, onclick: () => this.copy(word) }, h("span", { class: "clip" }, word), icon("content_copy")))),
      h(
        "div",
        { class: "row strength" },
        h("input", { type: "range", min: WEAKEST, max: STRONGEST, step: 0.05, value: String(strength[0] ?? 1), disabled: !use, "aria-label": `Strength of ${lora.name}`, "aria-valuetext": words, oninput: slide }),
        h("output", null, words),
      ),
      fitting.length > 0
        ? h("p", { class: "muted small" }, `For ${fitting.map((one) => one.title).join(", ")} · ${about(lora)}`)
        : h("p", { class: "muted small" }, `Fits no installed model · ${about(lora)}`),
      reason && (fitting.length > 0 || models.length === 0) && model && h("p", { class: "small caution-text" }, `Not for ${model.title}, which is in use: ${reason}.`),
      !fitting.length && models.length > 0 && h("details", { class: "small" }, h("summary", null, "Why"), models.map((one) => h("p", { key: one.id, class: "muted" }, `Not for ${one.title}: ${lora.fits[one.id]}.`))),
      lora.notes.map((note) => h("p", { class: "small muted" }, note)),
    );
  }
}

/** @param {Lora} lora */
function about(lora) {
  const ranks = lora.ranks.length ? `rank ${lora.ranks.join(", ")}` : "whole layers";
  return [`${counted(lora.layers, "layer")}, ${ranks}`, size(lora.bytes), lora.base_model_hint && `its metadata name ${lora.base_model_hint}`].filter(Boolean).join(" · ");
}
