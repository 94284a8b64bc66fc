/** The gallery: all finished videos on a shelf, what narrows them, collections and the trash; one video, or two, over it. */

import { address, ask, get, post } from "./api.js";
import { Compare } from "./compare.js";
import { h, icon, patch } from "./dom.js";
import { isTyping, onKeys } from "./keys.js";
import { live, subscribe } from "./live.js";
import { Menu } from "./menu.js";
import { Notice } from "./notice.js";
import { EMPTY, Place } from "./place.js";
import { modeWords } from "./recipe.js";
import { Shelf } from "./shelf.js";
import { rootOf } from "./theme.js";
import { FORMATS, Viewer } from "./viewer.js";
import { ago, counted, size } from "./words.js";

/** @typedef {import("./types").VideoCard} Card */
/** @typedef {import("./types").Job} Job */
/** @typedef {import("./dom.js").Child} Child */
/** @typedef {{models: Record<string, string>}} Data titles of models by their ids */
/** @typedef {import("./types").Component<Data>} Mounted */
/** @typedef {{name: string, count: number, cover: string | null}} Collection */

const FIRST = 200; // cards of the first answer, of which a part is in view
const PAGE = 1000;
const BULK = 500;
const SEARCH_AFTER_MS = 200;
const RELOAD_AFTER_MS = 400;
const SCROLLED = "studio.gallery.scrolled";
const HEIGHTS = { small: 130, large: 190 };
const VIEWS = /** @type {[string, string, string][]} */ ([
  ["", "grid_view", "All videos"],
  ["favourites", "favorite", "Favourites"],
  ["approved", "verified", "Approved"],
]);
const CHOICES = /** @type {Record<string, Record<string, string>>} */ ({
  mode: { "": "All modes", text_to_video: modeWords("text_to_video"), image_to_video: modeWords("image_to_video"), video_extension: modeWords("video_extension") },
  shape: { "": "All shapes", landscape: "Landscape", portrait: "Portrait", square: "Square" },
  date: { "": "Any date", today: "Today", week: "Last 7 days", month: "Last 30 days", year: "Last year" },
  sort: { "": "Newest first", oldest: "Oldest first", longest: "Longest first", rating: "Best rated first", largest: "Largest files first" },
});

/** @type {WeakMap<ShadowRoot, Gallery>} */
const shown = new WeakMap();

/** @param {Mounted} component */
export default function show(component) {
  const { parentElement } = component;
  let gallery = shown.get(parentElement);
  const root = rootOf(parentElement, "gallery");
  if (!gallery) {
    gallery = new Gallery(root, component);
    shown.set(parentElement, gallery);
  }
  gallery.component = component;
  gallery.render();
  return () => {
    gallery.end();
    shown.delete(parentElement);
    root.replaceChildren();
  };
}

class Gallery {
  /** @param {HTMLElement} root @param {Mounted} component */
  constructor(root, component) {
    this.component = component;
    this.page = part(root, "page");
    this.viewer = new Viewer(part(root, "over viewer"), {
      close: () => this.leave(),
      step: (by) => this.step(by),
      where: () => ({ at: this.shelf.indexOf(this.place.shown.video), count: this.total }),
      show: (id) => this.go({ video: id }, true),
      favourite: (id, favourite) => this.setFavourite([id], favourite),
      remove: (ids) => this.remove(ids),
      create: () => this.component.setTriggerValue("create", true),
      say: (words) => this.notice.say(words),
      act: (act) => this.act(act),
    });
    this.compare = new Compare(part(root, "over compare"), {
      close: () => this.leave(),
      swap: () => this.go({ compare: this.place.shown.compare.split(",").reverse().join(",") }, true),
      create: () => this.component.setTriggerValue("create", true),
      act: (act) => this.act(act),
    });
    this.foot = part(root, "foot");
    this.menu = new Menu(() => this.renderFoot());
    this.notice = new Notice(() => this.renderFoot());
    this.place = new Place(() => this.follow());
    this.shelf = new Shelf({
      label: "Videos",
      changed: () => this.render(),
      open: (id) => this.go({ video: id }),
      favourite: (card) => this.setFavourite([card.id], !card.favourite),
      remove: (ids) => this.remove(ids),
      menu: (card, at, opener) => this.menu.open(card.title, this.actions(card), at, opener),
    });
    this.shelf.rowHeight = localStorage.getItem("studio.gallery.rows") === "small" ? HEIGHTS.small : HEIGHTS.large;
    this.total = 0;
    /** @type {boolean | null} null: not known yet */
    this.known = null;
    this.error = "";
    this.list = ""; // what names the list that is shown
    this.asked = 0;
    this.restored = false;
    /** @type {Record<string, number>} */
    this.counts = {};
    /** @type {Collection[]} */
    this.collections = [];
    /** @type {Job[]} */
    this.trash = [];
    this.words = ""; // on the disk
    /** @type {string | null} the collection that gets a name; "" a new one */
    this.naming = null;
    [this.drawing, this.stale] = [false, false];
    this.side = false; // whether the panel is open, where there is no room for it
    /** @type {number | null} of the list of videos, as live.js tells it */
    this.version = null;
    this.sure = document.createElement("dialog");
    this.sure.className = "card sure";
    root.append(this.sure);
    const slash = (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "/" || isTyping(event) || this.place.shown.video || this.place.shown.compare) return;
      event.preventDefault();
      /** @type {HTMLInputElement | null} */ (this.page.querySelector("input[type=search]"))?.focus();
    };
    document.addEventListener("keydown", slash);
    const leaving = () => this.remember();
    addEventListener("pagehide", leaving);
    const ends = [
      subscribe(() => this.heard()),
      onKeys((key) => this.key(key)),
      () => document.removeEventListener("keydown", slash),
      () => removeEventListener("pagehide", leaving),
      () => this.place.end(),
      () => [this.shelf, this.viewer, this.compare].forEach((one) => one.close()),
      () => this.menu.close(false),
      () => clearTimeout(this.timer),
    ];
    this.end = () => {
      this.remember();
      this.gone = true;
      ends.forEach((end) => end());
    };
    this.gone = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.follow();
    this.askSide();
  }

  // --- where one is ---

  /** @param {Partial<import("./place.js").Shown>} changes @param {boolean} [replace] */
  go(changes, replace = false) {
    this.place.go(changes, replace);
    this.follow();
  }

  /** Leave what is open over the shelf. */
  leave() {
    if (!this.place.close()) this.follow();
  }

  /** Show what the address says. */
  follow() {
    const { video, compare } = this.place.shown;
    const before = this.viewer.id || this.compare.ids.split(",")[0];
    this.viewer.open(video);
    this.compare.open(video ? "" : compare);
    this.page.inert = Boolean(video || compare);
    this.side = false;
    if (this.list !== this.place.key) this.load(true);
    this.render();
    if (before && !video && !compare && this.shelf.card(before)) this.shelf.focus(before);
  }

  /** @param {number} by */
  step(by) {
    const next = this.shelf.cards[this.shelf.indexOf(this.place.shown.video) + by];
    if (next && this.place.shown.video) this.go({ video: next.id }, true);
  }

  remember() {
    sessionStorage.setItem(SCROLLED, JSON.stringify([this.list, this.shelf.scrolled]));
  }

  // --- what is read ---

  /** @param {boolean} other whether it is another list than the one that is shown */
  async load(other) {
    const asked = ++this.asked;
    if (other && this.list) this.shelf.selectNone();
    this.list = this.place.key;
    const isOld = () => asked !== this.asked || this.gone;
    const { sort } = this.place.query();
    const days = sort === "newest" || sort === "oldest";
    try {
      if (this.place.shown.view === "trash") {
        const { jobs } = await get("/jobs", { trashed: true, search: this.place.shown.search, limit: 500 });
        if (isOld()) return;
        this.trash = jobs;
        this.shelf.set([]);
        this.total = jobs.length;
      } else {
        /** @type {Card[]} */
        let cards = [];
        for (let cursor = ""; ; ) {
          const answer = await get("/videos", { ...this.place.query(), cursor, limit: cursor || !other ? PAGE : FIRST });
          if (isOld()) return;
          cards = [...cards, ...answer.videos];
          cursor = answer.next;
          this.total = answer.total;
          if (other || !cursor) {
            if (!cursor) this.shelf.missing.clear();
            this.shelf.set(cards, { days, whole: !cursor });
            [this.known, this.error] = [cards.length > 0, ""];
            if (other && cards.length <= FIRST) this.shelf.restore(0);
            this.render();
          }
          if (!cursor) break;
        }
        if (!this.place.narrowed && !this.place.shown.view && !this.place.shown.collection) {
          this.counts.bytes = cards.reduce((sum, card) => sum + (card.bytes ?? 0), 0);
        }
      }
      [this.known, this.error] = [true, ""];
    } catch (error) {
      if (isOld()) return;
      this.error = error instanceof Error ? error.message : String(error);
    }
    this.render();
    if (!this.restored) this.restoreScroll(); // after the first list that came whole: an earlier one may be out of date
    this.viewer.render();
  }

  restoreScroll() {
    this.restored = true;
    const [list, top] = JSON.parse(sessionStorage.getItem(SCROLLED) ?? "[]");
    if (list !== this.list || !top) return;
    requestAnimationFrame(() => {
      this.shelf.restore(top);
      this.render();
    });
  }

  async askSide() {
    const count = (/** @type {Record<string, any>} */ query) => get("/videos", { ...query, limit: 1 }).then((answer) => answer.total);
    try {
      const [all, favourites, approved, collections, trash, system] = await Promise.all([
        count({}),
        count({ favourite: true }),
        count({ approved: true }),
        get("/collections"),
        get("/jobs", { trashed: true, limit: 500 }),
        get("/system"),
      ]);
      Object.assign(this.counts, { "": all, favourites, approved, trash: trash.jobs.length });
      this.collections = collections.collections;
      this.counts.free = system.now.disk_free_gib * 2 ** 30;
    } catch {
      return; // the list says what is wrong
    }
    if (!this.gone) this.render();
  }

  /** Something has changed in the studio. */
  heard() {
    if (this.version === null) this.version = live.connected ? live.videos : null;
    else if (live.connected && live.videos !== this.version) {
      this.version = live.videos;
      this.reload();
    }
    this.viewer.follow();
  }

  reload() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.load(false);
      this.askSide();
    }, RELOAD_AFTER_MS);
  }

  // --- what is done ---

  /** @param {() => Promise<unknown>} act */
  async act(act) {
    try {
      await act();
    } catch (error) {
      this.notice.refuse(error);
    }
  }

  /** One action on many. @param {string[]} ids @param {string} action @returns {Promise<{id: string, message: string}[]>} refused */
  async bulk(ids, action) {
    const refused = [];
    for (let from = 0; from < ids.length; from += BULK) {
      refused.push(...(await post("/jobs/bulk", { ids: ids.slice(from, from + BULK), action })).refused);
    }
    return refused;
  }

  /** At once on the page, and back where the studio refuses. @param {string[]} ids @param {boolean} favourite */
  async setFavourite(ids, favourite) {
    const change = (/** @type {Set<string>} */ which, /** @type {boolean} */ to) => {
      this.shelf.cards = this.shelf.cards.map((card) => (which.has(card.id) ? { ...card, favourite: to } : card));
      this.shelf.arrange();
      this.render();
    };
    const changed = new Set(ids.filter((id) => this.shelf.card(id)?.favourite !== favourite));
    change(changed, favourite);
    try {
      const refused = await this.bulk(ids, favourite ? "favourite" : "unfavourite");
      if (refused[0]) {
        change(new Set(refused.map(({ id }) => id)), !favourite);
        this.viewer.hearted(refused[0].id, !favourite);
        this.notice.say(refused[0].message, null, true);
      }
    } catch (error) {
      change(changed, !favourite);
      for (const id of ids) this.viewer.hearted(id, !favourite);
      this.notice.refuse(error);
    }
  }

  /** @param {string[]} ids */
  async remove(ids) {
    const { video } = this.place.shown;
    if (ids.includes(video)) {
      const at = this.shelf.indexOf(video);
      const next = this.shelf.cards[at + 1] ?? this.shelf.cards[at - 1];
      if (next) this.go({ video: next.id }, true);
      else this.leave();
    }
    const [before, gone] = [this.shelf.cards, new Set(ids)];
    const show = (/** @type {Card[]} */ cards) => {
      this.total += cards.length - this.shelf.cards.length;
      this.shelf.set(cards, { days: this.shelf.days, whole: this.shelf.whole });
      this.render();
    };
    for (const id of ids) this.shelf.selected.delete(id);
    show(before.filter((card) => !gone.has(card.id)));
    try {
      const refused = await this.bulk(ids, "delete");
      const kept = new Set(refused.map(({ id }) => id));
      const done = ids.filter((id) => !kept.has(id));
      if (kept.size) show(before.filter((card) => !gone.has(card.id) || kept.has(card.id)));
      const undo = () =>
        this.act(async () => {
          await this.bulk(done, "restore");
          this.reload();
        });
      const moved = done.length === 1 ? "Moved to trash." : `${counted(done.length, "video")} moved to trash.`;
      const why = refused[0] ? (kept.size === 1 ? refused[0].message : `${counted(kept.size, "video")} kept: ${refused[0].message}`) : "";
      if (done.length) this.notice.say([moved, why].filter(Boolean).join(" "), undo);
      else this.notice.say(why, null, true);
    } catch (error) {
      show(before);
      this.notice.refuse(error);
    }
  }

  /** @param {string} name @param {string[]} add */
  collect(name, add) {
    return this.act(async () => {
      for (let from = 0; from === 0 || from < add.length; from += BULK) {
        await ask("PUT", `/collections/${encodeURIComponent(name)}`, { body: { add: add.slice(from, from + BULK) } });
      }
      if (add.length) this.notice.say(`${counted(add.length, "video")} added to ${name}.`);
      await this.askSide();
    });
  }

  /** @param {string[]} ids @param {string} name */
  uncollect(ids, name) {
    return this.act(async () => {
      await ask("PUT", `/collections/${encodeURIComponent(name)}`, { body: { remove: ids } });
      this.notice.say(`${counted(ids.length, "video")} taken out of ${name}.`, () => this.collect(name, ids));
    });
  }

  /** Make a collection, or give one another name. @param {string} before "" for a new one @param {string} name */
  async name(before, name) {
    this.naming = null;
    this.render();
    if (!name.trim() || name === before) return;
    if (!before) {
      await this.collect(name.trim(), []);
      return;
    }
    await this.act(async () => {
      await ask("PATCH", `/collections/${encodeURIComponent(before)}`, { body: { name: name.trim() } });
      if (this.place.shown.collection === before) this.go({ collection: name.trim() }, true);
      await this.askSide();
    });
  }

  /** @param {Collection} collection */
  dissolve({ name }) {
    this.act(async () => {
      const { videos } = await get("/videos", { collection: name, limit: 1000 });
      await ask("DELETE", `/collections/${encodeURIComponent(name)}`);
      if (this.place.shown.collection === name) this.go({ collection: "" });
      await this.askSide();
      const ids = videos.map((/** @type {Card} */ card) => card.id);
      this.notice.say(`The collection ${name} is deleted; its videos stay.`, () => this.collect(name, ids));
    });
  }

  /** @param {string[]} ids @param {string} format */
  exportAll(ids, format) {
    this.act(async () => {
      for (const job of ids) await post("/jobs", { kind: "export", job, format });
      this.notice.say(`${counted(ids.length, "export")} in the queue. Open a video to save its file.`);
    });
  }

  /** @param {string[]} ids */
  restore(ids) {
    this.act(async () => {
      const refused = await this.bulk(ids, "restore");
      if (refused[0]) this.notice.say(refused[0].message, null, true);
      await this.load(false);
      await this.askSide();
    });
  }

  /** Ask once, then remove for good. */
  askToEmpty() {
    const close = () => this.sure.close();
    const what = this.trash.length === 1 ? "Its one entry is" : `Its ${this.trash.length} entries are`;
    patch(this.sure, [
      h("h2", { class: "section", id: "sure" }, "Empty the trash"),
      h("p", null, `${what} removed for good, with videos and recipes. There is no undo.`),
      h(
        "div",
        { class: "row" },
        h("span", { class: "space" }),
        h("button", { class: "button outlined", onclick: close }, "Cancel"),
        h(
          "button",
          {
            class: "button primary",
            onclick: () => {
              close();
              this.act(async () => {
                await ask("DELETE", "/trash");
                this.notice.close();
                await this.load(false);
                await this.askSide();
              });
            },
          },
          icon("delete_forever"),
          "Remove for good",
        ),
      ),
    ]);
    this.sure.setAttribute("aria-labelledby", "sure");
    this.sure.showModal();
  }

  /** @param {string} key @returns {boolean} */
  key(key) {
    if (this.sure.open) return false;
    const { video, compare } = this.place.shown;
    if (video) return this.viewer.key(key);
    if (compare) return this.compare.key(key);
    if (key === "Escape" && this.shelf.selected.size) {
      this.shelf.selectNone();
      return true;
    }
    return false;
  }

  // --- menus ---

  /** Of one card. @param {Card} card @returns {(import("./menu.js").Entry | null)[]} */
  actions(card) {
    const { collection } = this.place.shown;
    const selected = this.shelf.selected.has(card.id);
    return [
      { label: "Open", icon: "open_in_full", keys: "Enter", act: () => this.go({ video: card.id }) },
      { label: selected ? "Deselect" : "Select", icon: "check_circle", keys: "Space", act: () => this.shelf.select(card.id) },
      { label: card.favourite ? "Remove favourite" : "Favourite", icon: "favorite", keys: "H", act: () => this.setFavourite([card.id], !card.favourite) },
      ...this.collections.slice(0, 8).map(({ name }) => ({ label: `Add to ${name}`, icon: "create_new_folder", act: () => this.collect(name, [card.id]) })),
      ...(collection ? [{ label: `Take out of ${collection}`, icon: "folder_off", act: () => this.uncollect([card.id], collection) }] : []),
      null,
      { label: "Delete", icon: "delete", keys: "Delete", bad: true, act: () => this.remove([card.id]) },
    ];
  }

  /** @param {"mode" | "model" | "shape" | "date" | "sort"} name @returns {Record<string, string>} */
  choices(name) {
    return name === "model" ? { "": "All models", ...this.component.data.models } : (CHOICES[name] ?? {});
  }

  /** @param {"mode" | "model" | "shape" | "date" | "sort"} name @param {Event} event */
  choose(name, event) {
    const entries = Object.entries(this.choices(name)).map(([value, label]) => ({
      label,
      icon: value === this.place.shown[name] ? "check" : "",
      act: () => this.go({ [name]: value }),
    }));
    this.menu.openAt(label(name), entries, /** @type {HTMLElement} */ (event.currentTarget));
  }

  // --- how it looks ---

  render() {
    if (this.gone) return;
    this.stale = true;
    if (this.drawing) return; // the focus leaves a card that goes: drawn once more, after this time
    this.drawing = true;
    while (this.stale) {
      this.stale = false;
      patch(this.page, [this.panel(), h("div", { key: "main", class: "main" }, this.bar(), this.content(), this.selection())]);
    }
    this.drawing = false;
    this.renderFoot();
  }

  renderFoot() {
    if (this.gone) return;
    const words = this.known === null ? "" : counted(this.total, "video");
    patch(this.foot, [this.notice.view(), this.menu.view(), h("div", { key: "told", class: "spoken", role: "status" }, words)]);
  }

  /** At the side: views, collections, trash, disk. */
  panel() {
    const { view, collection } = this.place.shown;
    const to = (/** @type {string} */ name, /** @type {string} */ symbol, /** @type {string} */ words) => {
      const chosen = view === name && !collection;
      return h(
        "button",
        { key: `view ${name}`, class: `button ${chosen ? "tinted" : ""}`, "aria-current": chosen ? "page" : undefined, onclick: () => this.go({ ...EMPTY, sort: this.place.shown.sort, view: name }) },
        icon(symbol),
        h("span", { class: "what" }, words),
        h("span", { class: "muted small" }, name === "trash" ? `${this.counts.trash ?? ""}, kept 7 days`.replace(/^, /, "") : (this.counts[name]?.toLocaleString("en") ?? "")),
      );
    };
    const { bytes, free } = this.counts;
    const disk = [bytes !== undefined && `${size(bytes)} in videos`, free !== undefined && `${size(free)} free`].filter(Boolean).join(", ");
    return h(
      "nav",
      { key: "side", class: `side ${this.side ? "open" : ""}`, "aria-label": "Videos and collections" },
      VIEWS.map(([name, symbol, words]) => to(name, symbol, words)),
      h(
        "div",
        { key: "collections", class: "row spread heading" },
        h("h2", { class: "muted small" }, "Collections"),
        h("button", { class: "button round", "aria-label": "New collection", title: "New collection", onclick: () => this.startNaming("") }, icon("add")),
      ),
      this.naming === "" && this.field(""),
      this.collections.map((one) => (this.naming === one.name ? this.field(one.name) : this.collection(one))),
      h("span", { key: "space", class: "space" }),
      to("trash", "delete", "Trash"),
      h("p", { key: "disk", class: "muted small" }, disk),
    );
  }

  /** @param {string} name */
  startNaming(name) {
    this.naming = name;
    this.render();
  }

  /** Where a collection gets its name. @param {string} before */
  field(before) {
    return h("input", {
      key: `field ${before}`,
      class: "field",
      type: "text",
      maxlength: 80,
      "aria-label": before ? `New name of ${before}` : "Name of the new collection",
      placeholder: "Name",
      ref: (/** @type {HTMLInputElement} */ element) => {
        element.value = before;
        queueMicrotask(() => element.select());
      },
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        const field = /** @type {HTMLInputElement} */ (event.target);
        if (event.key === "Escape") field.value = before;
        if (event.key === "Enter" || event.key === "Escape") this.name(before, field.value);
      },
      onblur: (/** @type {Event} */ event) => this.naming !== null && this.name(before, /** @type {HTMLInputElement} */ (event.target).value),
    });
  }

  /** @param {Collection} one */
  collection(one) {
    const { name, count, cover } = one;
    const chosen = this.place.shown.collection === name;
    const more = (/** @type {Event} */ event) =>
      this.menu.openAt(
        name,
        [
          { label: "Rename", icon: "edit", act: () => this.startNaming(name) },
          { label: "Delete collection", icon: "delete", bad: true, act: () => this.dissolve(one) },
        ],
        /** @type {HTMLElement} */ (event.currentTarget),
      );
    const over = (/** @type {boolean} */ on) => (/** @type {DragEvent} */ event) => {
      if (!event.dataTransfer?.types.includes("application/x-studio-videos")) return;
      event.preventDefault();
      /** @type {HTMLElement} */ (event.currentTarget).classList.toggle("over", on);
    };
    return h(
      "div",
      {
        key: `collection ${name}`,
        class: "collection",
        ondragover: over(true),
        ondragleave: over(false),
        ondrop: (/** @type {DragEvent} */ event) => {
          over(false)(event);
          const ids = event.dataTransfer?.getData("application/x-studio-videos");
          if (ids) this.collect(name, JSON.parse(ids));
        },
      },
      h(
        "button",
        { class: `button ${chosen ? "tinted" : ""}`, "aria-current": chosen ? "page" : undefined, onclick: () => this.go({ ...EMPTY, sort: this.place.shown.sort, collection: name }) },
        cover ? h("img", { src: address(`api/v1/jobs/${cover}/thumbnail`), alt: "" }) : icon("folder"),
        h("span", { class: "what" }, name),
        h("span", { class: "muted small" }, count),
      ),
      h("button", { class: "button round more", "aria-label": `Actions for ${name}`, onclick: more }, icon("more_horiz")),
    );
  }

  /** Search, filters, order. */
  bar() {
    const { view, search, favourite, sort } = this.place.shown;
    const { rowHeight } = this.shelf;
    const trash = view === "trash";
    const words = CHOICES.sort?.[sort] ?? "Newest first";
    return h(
      "div",
      { key: "bar", class: "bar" },
      h(
        "button",
        {
          key: "open side",
          class: "button round outlined only-narrow",
          "aria-label": "Videos and collections",
          "aria-expanded": String(this.side),
          onclick: () => {
            this.side = !this.side;
            this.render();
          },
        },
        icon("menu"),
      ),
      h(
        "label",
        { key: "search", class: "search" },
        icon("search"),
        h("input", {
          type: "search",
          "aria-label": "Search",
          placeholder: "Search prompts",
          value: this.typed ?? search,
          oninput: (/** @type {Event} */ event) => this.type(/** @type {HTMLInputElement} */ (event.target).value),
          onkeydown: (/** @type {KeyboardEvent} */ event) => {
            if (event.key === "Enter") this.search();
            if (event.key === "Escape") {
              this.type("");
              this.search();
            }
          },
        }),
        h("kbd", { "aria-hidden": "true" }, "/"),
      ),
      !trash &&
        h(
          "div",
          { key: "chips", class: "chips" },
          view !== "favourites" &&
            h("button", { key: "favourite", class: `button outlined ${favourite ? "on" : ""}`, "aria-pressed": String(Boolean(favourite)), onclick: () => this.go({ favourite: favourite ? "" : "1" }) }, icon("favorite"), "Favourites", favourite && icon("close")),
          /** @type {const} */ (["mode", "model", "shape", "date"]).map((name) => this.filter(name)),
        ),
      h("span", { key: "space", class: "space" }),
      trash && this.trash.length > 0 && h("button", { key: "empty", class: "button outlined bad", onclick: () => this.askToEmpty() }, icon("delete_forever"), "Empty the trash"),
      !trash && h("button", { key: "sort", class: "button", "aria-haspopup": "menu", "aria-label": `Order: ${words}`, title: "Order", onclick: (/** @type {Event} */ event) => this.choose("sort", event) }, icon("sort"), h("span", { class: "order" }, words)),
      !trash &&
        h(
          "button",
          {
            key: "size",
            class: "button round",
            "aria-label": rowHeight === HEIGHTS.large ? "Smaller pictures" : "Larger pictures",
            title: rowHeight === HEIGHTS.large ? "Smaller pictures" : "Larger pictures",
            onclick: () => this.resize(),
          },
          icon("photo_size_select_large"),
        ),
    );
  }

  resize() {
    const kept = this.shelf.topCard();
    const name = this.shelf.rowHeight === HEIGHTS.large ? "small" : "large";
    this.shelf.rowHeight = HEIGHTS[name];
    localStorage.setItem("studio.gallery.rows", name);
    this.shelf.arrange();
    this.render();
    if (kept) this.shelf.scrollTo(kept.id, kept.offset);
  }

  /** @type {string | undefined} what is typed and not searched for yet */
  typed = undefined;

  /** @param {string} text */
  type(text) {
    this.typed = text;
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.search(), SEARCH_AFTER_MS);
  }

  /** @type {ReturnType<typeof setTimeout> | undefined} */
  typing = undefined;

  search() {
    clearTimeout(this.typing);
    if (this.typed === undefined || this.gone) return;
    const search = this.typed;
    this.typed = undefined;
    this.go({ search }, true);
  }

  /** A filter that shows whether it is on. @param {"mode" | "model" | "shape" | "date"} name */
  filter(name) {
    const value = this.place.shown[name];
    const words = this.choices(name)[value] ?? value;
    return h(
      "span",
      { key: name, class: `filter ${value ? "on" : ""}` },
      h("button", { class: "button outlined", "aria-haspopup": "menu", "aria-label": value ? `${label(name)}: ${words}` : words, onclick: (/** @type {Event} */ event) => this.choose(name, event) }, words, !value && icon("expand_more")),
      value && h("button", { class: "button clear", "aria-label": `Clear ${label(name).toLowerCase()}`, onclick: () => this.go({ [name]: "" }) }, icon("close")),
    );
  }

  /** @returns {Child} */
  content() {
    const { view, collection } = this.place.shown;
    if (this.error) {
      const again = h("button", { class: "button outlined", onclick: () => this.load(true) }, "Try again");
      return empty("cloud_off", "The videos cannot be read", this.error, again);
    }
    if (view === "trash" && this.known) return this.trash.length ? this.bin() : empty("delete", "The trash is empty", "Deleted videos stay here for a week.");
    if (this.known === null || this.total) return this.shelf.view();
    if (this.place.narrowed) {
      const clear = h("button", { class: "button tinted", onclick: () => this.go({ ...EMPTY, view, collection }) }, "Clear the filters");
      return empty("search_off", "No matching videos", "Use fewer words or clear the filters.", clear);
    }
    if (view === "favourites") return empty("favorite", "No favourites yet", "Press the heart on a video, or H, to keep it here.", this.toAll());
    if (view === "approved") return empty("verified", "Nothing approved yet", "Approve a take when it is the one: it is marked and cannot be deleted.", this.toAll());
    if (collection) return empty("folder", `${collection} is empty`, "Select videos and add them, or drag them onto the collection's name.", this.toAll());
    const create = h("button", { class: "button primary", onclick: () => this.component.setTriggerValue("create", true) }, icon("movie"), "Create the first video");
    return empty("movie", "No videos yet", "Finished videos are kept here, with their recipes.", create);
  }

  toAll() {
    return h("button", { class: "button tinted", onclick: () => this.go({ ...EMPTY }) }, "Show all videos");
  }

  /** What is in the trash. */
  bin() {
    return h(
      "ul",
      { key: "bin", class: "bin", tabindex: 0, "aria-label": "Trash" },
      this.trash.map((job) =>
        h(
          "li",
          { key: job.id, class: "card row" },
          icon(job.artifact ? "movie" : "block"),
          h("span", { class: "what" }, h("b", null, job.title), h("span", { class: "muted small" }, `Deleted ${ago(job.trashed_at ?? 0)}, kept for a week`)),
          h("button", { class: "button outlined", onclick: () => this.restore([job.id]) }, icon("undo"), "Restore"),
        ),
      ),
    );
  }

  /** What can be done with the videos that are selected. */
  selection() {
    const ids = [...this.shelf.selected];
    if (!ids.length) return null;
    const chosen = this.shelf.chosen();
    const all = chosen.every((card) => card.favourite);
    const { collection } = this.place.shown;
    const action = (/** @type {string} */ symbol, /** @type {string} */ words, /** @type {(event: Event) => void} */ act, more = {}) =>
      h("button", { key: words, class: "button", "aria-label": words, onclick: act, ...more }, icon(symbol), h("span", { class: "wide" }, words));
    const into = (/** @type {Event} */ event) =>
      this.menu.openAt(
        "Add to collection",
        [
          ...this.collections.map(({ name }) => ({ label: name, icon: "folder", act: () => this.collect(name, ids) })),
          { label: "New collection", icon: "create_new_folder", act: () => this.nameFor(ids) },
          ...(collection ? [null, { label: `Take out of ${collection}`, icon: "folder_off", act: () => this.uncollect(ids, collection) }] : []),
        ],
        /** @type {HTMLElement} */ (event.currentTarget),
      );
    const formats = (/** @type {Event} */ event) =>
      this.menu.openAt(
        "Export",
        Object.entries(FORMATS).filter(([format]) => format !== "still").map(([format, words]) => ({ label: words, icon: "ios_share", act: () => this.exportAll(ids, format) })),
        /** @type {HTMLElement} */ (event.currentTarget),
      );
    return h(
      "div",
      { key: "selection", class: "selection", role: "toolbar", "aria-label": "Selected videos" },
      h("b", { role: "status" }, `${ids.length.toLocaleString("en")} selected`),
      action("compare", "Compare", () => this.go({ compare: chosen.map((card) => card.id).join(",") }), { disabled: chosen.length !== 2, title: chosen.length === 2 ? "" : "Select two videos to compare them" }),
      action("create_new_folder", "Add to collection", into, { "aria-haspopup": "menu" }),
      action("favorite", all ? "Remove favourites" : "Favourite", () => this.setFavourite(ids, !all)),
      h("a", { key: "zip", class: "button", "aria-label": "Download zip", href: address("api/v1/jobs.zip", { id: ids }), download: true }, icon("download"), h("span", { class: "wide" }, "Download zip")),
      action("ios_share", "Export", formats, { "aria-haspopup": "menu" }),
      action("delete", "Delete", () => this.remove(ids), { class: "button bad" }),
      h("button", { key: "none", class: "button round", "aria-label": "Deselect all", onclick: () => this.shelf.selectNone() }, icon("close")),
    );
  }

  /** A new collection for these. @param {string[]} ids */
  nameFor(ids) {
    let name = "New collection";
    for (let number = 2; this.collections.some((one) => one.name === name); number++) name = `New collection ${number}`;
    this.collect(name, ids).then(() => {
      this.side = true;
      this.startNaming(name);
    });
  }
}

/** @param {string} name of a filter */
const label = (name) => ({ mode: "Mode", model: "Model", shape: "Shape", date: "Date", sort: "Order" })[name] ?? name;

/** @param {string} symbol @param {string} title @param {string} sentence @param {Child} [step] the first one to take */
function empty(symbol, title, sentence, step) {
  return h("div", { key: `empty ${title}`, class: "empty" }, icon(symbol), h("b", null, title), h("p", { class: "muted" }, sentence), step);
}

/** A part of the component that draws itself. @param {HTMLElement} root @param {string} name */
function part(root, name) {
  const element = document.createElement("div");
  element.className = name;
  if (name.startsWith("over")) {
    element.hidden = true;
    element.setAttribute("role", "dialog");
  }
  root.append(element);
  return element;
}
