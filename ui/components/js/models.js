/**
 * The Models page: the model that suits this machine best, installed ones, downloads, LoRAs, what else can be downloaded,
 * and the trash.
 */

import { ask, get, post } from "./api.js";
import { h, icon, patch } from "./dom.js";
import { Downloads } from "./downloads.js";
import { change, current, load, onForm } from "./draft.js";
import { onKeys } from "./keys.js";
import { live, subscribe } from "./live.js";
import { Loras } from "./loras.js";
import { Menu } from "./menu.js";
import { available, card, recommended, searched } from "./modelcards.js";
import { Notice } from "./notice.js";
import { rootOf } from "./theme.js";
import { counted, size } from "./words.js";

/** @typedef {import("./types").ModelRow} Row */
/** @typedef {import("./types").ModelList} List */
/** @typedef {{memory_gib: number, gpu: boolean}} Data the memory that renders, of the GPU if there is one */

class Models {
  /** @param {HTMLElement} root @param {import("./types").Component<Data>} component */
  constructor(root, component) {
    this.root = root;
    this.component = component;
    const changed = () => this.render();
    const act = (/** @type {() => Promise<unknown>} */ work) => this.act(work);
    this.menu = new Menu(changed);
    this.notice = new Notice(changed);
    this.downloads = new Downloads({ changed, act });
    this.loras = new Loras({ changed, act, notice: this.notice });
    /** @type {List | null} */
    this.list = null;
    this.error = "";
    /** @type {Record<string, string | null>} thumbnails of the last videos, by model */
    this.pictures = {};
    /** @type {Map<string, string>} titles of the models that were on their way, by id */
    this.coming = new Map();
    this.search = "";
    this.all = false; // whether the models that can be downloaded are shown
    this.seen = "";
    this.videos = -1;
    this.asked = 0;
    this.gone = false;
    const shown = () => !document.hidden && live.connected && this.load();
    document.addEventListener("visibilitychange", shown);
    const ends = [subscribe(() => this.follow()), onForm(changed), onKeys((key) => this.key(key)), this.listen(), () => document.removeEventListener("visibilitychange", shown)];
    const undo = (/** @type {KeyboardEvent} */ event) => this.undo(event);
    root.addEventListener("keydown", undo);
    this.end = () => {
      this.gone = true;
      ends.forEach((end) => end());
      this.menu.close(false);
      root.removeEventListener("keydown", undo);
    };
    load();
    this.render();
  }

  // --- what there is ---

  /** The studio has told something: lists are read again where they may have changed. */
  follow() {
    const seen = JSON.stringify([live.connected, live.downloads.map((one) => [one.id, one.state])]);
    const videos = live.videos !== this.videos;
    if (live.connected && (seen !== this.seen || videos)) {
      [this.seen, this.videos] = [seen, live.videos];
      this.load();
    }
    if (!live.connected) this.seen = "";
    this.render();
  }

  async load() {
    const asked = ++this.asked;
    try {
      const [list] = await Promise.all([get("/models", { all: true }), this.loras.load()]);
      if (asked !== this.asked || this.gone) return;
      [this.list, this.error] = [list, ""];
    } catch (error) {
      if (asked !== this.asked || this.gone) return;
      this.error = error instanceof Error ? error.message : String(error);
    }
    this.welcome();
    this.render();
    await Promise.all(
      this.installed.map(async ({ id }) => {
        const found = await get("/videos", { model: id, limit: 1 }).catch(() => null);
        if (found) this.pictures[id] = found.videos[0] ? `app/static/media/${found.videos[0].id}/thumbnail.jpg` : null;
      }),
    );
    this.render();
  }

  /** Say which downloads have ended well. */
  welcome() {
    const coming = new Map(live.downloads.map((one) => [one.id, one.title]));
    for (const [id, title] of this.coming) {
      if (!coming.has(id) && this.installed.some((row) => row.id === id)) this.notice.say(`${title} is installed.`);
    }
    this.coming = coming;
  }

  get installed() {
    return this.list?.models.filter((row) => row.present) ?? [];
  }

  /** The model that would render the form. */
  get used() {
    return this.installed.find((row) => row.id === current().model) ?? this.installed.find((row) => row.id === this.list?.automatic);
  }

  /** @param {Row} row */
  matches(row) {
    return searched(row).includes(this.search.trim().toLowerCase());
  }

  // --- what is done ---

  /** Do something, or say why it was refused. The focus stays where it was: where its row has gone, on the next one.
   * @param {() => Promise<unknown>} work */
  async act(work) {
    const row = /** @type {ShadowRoot} */ (this.root.getRootNode()).activeElement?.closest("li");
    const list = row?.parentElement;
    const at = row && list ? [...list.children].indexOf(row) : 0;
    try {
      await work();
    } catch (error) {
      this.notice.refuse(error);
    }
    this.render();
    if (!row || row.isConnected || this.gone) return;
    const next = list?.isConnected ? list.children[Math.min(at, list.children.length - 1)] : null;
    const control = next?.querySelector("button:not(:disabled)") ?? this.root.querySelector("input[type=search]");
    /** @type {HTMLElement | null} */ (control)?.focus({ preventScroll: true });
  }

  /** @param {Row} row */
  use(row) {
    if (this.used !== row) change({ model: row.id });
    this.component.setTriggerValue("create", row.id);
  }

  /** @param {Row} row */
  download(row) {
    this.act(async () => {
      await post("/downloads", { model: row.id });
      this.notice.say(`Downloading ${row.title}.`);
    });
  }

  /** @param {Row} row */
  remove(row) {
    const chosen = current().model === row.id;
    this.act(async () => {
      await ask("DELETE", `/models/${encodeURIComponent(row.id)}`);
      if (chosen) change({ model: null });
      await this.load();
      this.notice.say(`Moved ${row.title} to the trash.`, () => this.restore(row.id, chosen));
    });
  }

  /** @param {string} id @param {boolean} [chosen] whether the form used it */
  restore(id, chosen = false) {
    this.act(async () => {
      await post(`/models/${encodeURIComponent(id)}/restore`);
      await this.load();
      if (chosen) change({ model: id });
    });
  }

  /** Files that are dropped anywhere on the page are LoRAs; the browser never leaves the page. */
  listen() {
    const has = (/** @type {DragEvent} */ event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const over = (/** @type {DragEvent} */ event) => {
      if (!has(event)) return;
      event.preventDefault();
      this.root.classList.add("dropping");
    };
    const left = (/** @type {DragEvent} */ event) => event.relatedTarget || this.root.classList.remove("dropping");
    const drop = (/** @type {DragEvent} */ event) => {
      this.root.classList.remove("dropping");
      if (!has(event)) return;
      event.preventDefault();
      this.loras.add([...(event.dataTransfer?.files ?? [])]);
    };
    document.addEventListener("dragover", over);
    document.addEventListener("dragleave", left);
    document.addEventListener("drop", drop);
    return () => {
      document.removeEventListener("dragover", over);
      document.removeEventListener("dragleave", left);
      document.removeEventListener("drop", drop);
    };
  }

  /** @param {string} key @returns {boolean} */
  key(key) {
    if (key !== "/") return false;
    /** @type {HTMLInputElement | null} */ (this.root.querySelector("input[type=search]"))?.focus();
    return true;
  }

  /** @param {KeyboardEvent} event */
  undo(event) {
    if (event.key.toLowerCase() !== "z" || !(event.ctrlKey || event.metaKey) || !this.notice.shown?.undo) return;
    event.preventDefault();
    this.notice.undo();
  }

  // --- how it looks ---

  render() {
    if (this.gone) return;
    const { list } = this;
    patch(this.root, [
      live.connected === false && h("p", { key: "away", class: "banner", role: "status" }, icon("cloud_off"), "The studio is not running. This page reconnects by itself."),
      this.head(),
      this.error && live.connected !== false && h("p", { key: "error", class: "banner", role: "alert" }, icon("error"), this.error),
      h(
        "div",
        { key: "content", class: "content", "aria-busy": list ? null : "true" },
        list && [this.top(list), this.installedSection(), this.availableSection(list), this.loras.view(this.search.trim().toLowerCase(), this.installed.filter((row) => row.denoises), this.used), this.trash(list), this.hint()],
      ),
      this.menu.view(),
      this.notice.view(),
    ]);
  }

  head() {
    const type = (/** @type {Event} */ event) => {
      this.search = /** @type {HTMLInputElement} */ (event.target).value;
      this.render();
    };
    return h(
      "header",
      { key: "head", class: "head" },
      h("h1", { class: "title" }, "Models"),
      h("p", { class: "muted" }, "Installed models, and what you can download for this machine"),
      h("span", { class: "space" }),
      h("label", { class: "search" }, icon("search"), h("input", { type: "search", placeholder: "Search models and LoRAs", "aria-label": "Search models and LoRAs", value: this.search, oninput: type })),
    );
  }

  /** @param {Row} row @returns {import("./modelcards.js").Shown} */
  shown(row) {
    return {
      inUse: row === this.used,
      picture: this.pictures[row.id] ?? null,
      offline: Boolean(this.list?.offline),
      coming: live.downloads.some((one) => one.id === row.id),
      speed: this.downloads.speed,
      use: () => this.use(row),
      download: () => this.download(row),
      more: row.removable ? (button) => this.menu.openAt(`More for ${row.title}`, [{ label: "Remove", icon: "delete", bad: true, act: () => this.remove(row) }], button) : null,
    };
  }

  /** @param {List} list */
  top(list) {
    const best = list.models.find((row) => row.id === list.recommended.model);
    const { memory_gib: memory, gpu } = this.component.data;
    return h(
      "div",
      { key: "top", class: "top" },
      best && recommended(best, list.recommended.why, this.shown(best), { free: list.disk_free_bytes, memory, gpu }),
      this.downloads.view(list.offline, list.disk_free_bytes),
    );
  }

  installedSection() {
    const { installed } = this;
    const rows = installed.filter((row) => this.matches(row));
    const bytes = installed.reduce((sum, row) => sum + (row.bytes ?? 0), 0);
    const absent = this.absent.length;
    const flip = () => {
      this.all = !this.all;
      this.render();
    };
    return h(
      "section",
      { key: "installed", "aria-label": "Installed" },
      h(
        "div",
        { class: "row line" },
        h("h2", { class: "section" }, "Installed"),
        h("span", { class: "muted small" }, [counted(installed.length, "model"), bytes > 0 && size(bytes)].filter(Boolean).join(", ")),
        h("span", { class: "space" }),
        absent > 0 && h("span", { key: "more", class: "muted small count" }, `${absent} more can be downloaded`),
        absent > 0 && h("button", { key: "all", class: "button link", "aria-expanded": String(this.open), disabled: Boolean(this.search), onclick: flip }, this.open ? "Show fewer" : "Show all"),
      ),
      h("ul", { class: "grid", role: "list" }, rows.map((row) => card(row, this.shown(row)))),
      !rows.length && h("p", { key: "none", class: "muted" }, "No installed model matches."),
      Object.entries(this.list?.refused ?? {}).map(([name, reason]) => h("p", { key: `no-${name}`, class: "warning" }, icon("block"), h("span", null, h("b", null, name), ` cannot be used: ${reason}.`))),
    );
  }

  /** The models that can be downloaded, those that fit first. */
  get absent() {
    const rows = this.list?.models.filter((row) => !row.present) ?? [];
    return rows.toSorted((one, other) => Number(other.fits) - Number(one.fits));
  }

  get open() {
    return this.all || Boolean(this.search.trim());
  }

  /** @param {List} list */
  availableSection(list) {
    if (!this.open) return null;
    const rows = this.absent.filter((row) => this.matches(row));
    return h(
      "section",
      { key: "available", "aria-label": "Available" },
      h("div", { class: "row line" }, h("h2", { class: "section" }, "Available"), h("span", { class: "muted small" }, `${counted(rows.length, "model")}, ${size(list.disk_free_bytes)} free`)),
      rows.length > 0 ? h("ul", { class: "grid", role: "list" }, rows.map((row) => available(row, this.shown(row)))) : h("p", { class: "muted" }, "No model that can be downloaded matches."),
    );
  }

  /** @param {List} list */
  trash(list) {
    const rows = [
      ...list.trashed.map(({ id, title }) => ({ key: `model-${id}`, title, restore: () => this.restore(id) })),
      ...this.loras.trashed.map((name) => ({ key: `lora-${name}`, title: `${name} (LoRA)`, restore: () => this.loras.restore(name) })),
    ];
    if (!rows.length) return null;
    return h(
      "section",
      { key: "trash", "aria-label": "In the trash" },
      h("div", { class: "row line" }, h("h2", { class: "section" }, "In the trash"), h("span", { class: "muted small" }, "Removed for good after a week")),
      h("ul", { class: "trash", role: "list" }, rows.map(({ key, title, restore }) => h("li", { key, class: "row spread" }, h("span", { class: "clip" }, title), h("button", { class: "button outlined dense", "aria-label": `Restore ${title}`, onclick: restore }, icon("undo"), "Restore")))),
    );
  }

  hint() {
    return h("p", { key: "hint", class: "hint muted small" }, icon("folder"), h("span", null, "Without a network: copy a checkpoint in diffusers format into models/, or run ", h("code", null, "./launch.sh models import FOLDER"), "."));
  }
}

/** @type {WeakMap<ShadowRoot, Models>} */
const pages = new WeakMap();

/** @param {import("./types").Component<Data>} component */
export default function show(component) {
  const root = rootOf(component.parentElement, "models");
  let page = pages.get(component.parentElement);
  if (!page) pages.set(component.parentElement, (page = new Models(root, component)));
  page.component = component;
  page.render();
  return () => {
    page?.end();
    pages.delete(component.parentElement);
  };
}
