/**
 * A shelf of videos: rows of pictures, of which only those in view are in the document. A picture plays while the pointer or the
 * focus is on it. Whoever shows it calls `view` and is told when to do so again.
 */

import { address } from "./api.js";
import { h, icon } from "./dom.js";
import { layOut } from "./rows.js";
import { calm } from "./theme.js";
import { ago } from "./words.js";

/** @typedef {import("./types").VideoCard} Card */
/** @typedef {import("./dom.js").Child} Child */
/**
 * @typedef {object} Parts
 * @property {string} label of all of it
 * @property {() => void} changed draw it again
 * @property {(id: string) => void} open
 * @property {(card: Card) => void} [favourite] turn it on or off
 * @property {(ids: string[]) => void} [remove]
 * @property {(card: Card, at: {x: number, y: number}, opener: HTMLElement | null) => void} [menu] of one card
 * @property {(card: Card) => string} [words] below the title while a card is looked at
 */

const PLAY_AFTER_MS = 150;
const GAP = 8;
const HEADING = 40;
const MARGIN = 700; // pixels above and below what is seen that are in the document too

export class Shelf {
  /** @param {Parts} parts */
  constructor(parts) {
    this.parts = parts;
    /** @type {Card[]} */
    this.cards = [];
    this.days = true;
    this.whole = true;
    this.rowHeight = 190;
    /** @type {Set<string>} */
    this.selected = new Set();
    /** @type {string | null} the card that has the focus, or would get it */
    this.at = null;
    /** @type {string | null} where a selection with Shift begins */
    this.anchor = null;
    /** @type {{id: string, plays: boolean} | null} the card that is looked at */
    this.seen = null;
    /** @type {Set<string>} ids of those whose picture is not there */
    this.missing = new Set();
    /** @type {HTMLElement | null} */
    this.element = null;
    this.width = 0;
    this.pending = 0; // pixels that are still to be scrolled to
    this.scrolled = 0; // pixels, also once it is out of the document
    this.drawn = "";
    /** @type {import("./rows.js").Row[]} */
    this.rows = [];
    this.height = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.sized = new ResizeObserver(([entry]) => {
      const width = Math.floor(entry?.contentRect.width ?? 0);
      if (width === this.width) return;
      const kept = this.topCard();
      this.width = width;
      this.arrange();
      this.parts.changed();
      if (kept) this.scrollTo(kept.id, kept.offset);
      if (this.pending) this.restore(this.pending);
    });
  }

  /** Show these. @param {Card[]} cards @param {{days?: boolean, whole?: boolean}} [more] whether they are in the order of their
   * days, and whether these are all */
  set(cards, { days = true, whole = true } = {}) {
    [this.cards, this.days, this.whole] = [cards, days, whole];
    const ids = new Set(cards.map((card) => card.id));
    if (whole) for (const id of this.selected) if (!ids.has(id)) this.selected.delete(id);
    if (whole && (!this.at || !ids.has(this.at))) this.at = null;
    this.arrange();
  }

  arrange() {
    const height = this.width && this.width < 560 ? Math.min(this.rowHeight, 130) : this.rowHeight;
    const shape = { width: this.width, height, gap: GAP, heading: HEADING, days: this.days, whole: this.whole };
    ({ rows: this.rows, height: this.height } = this.width ? layOut(this.cards, shape) : { rows: [], height: 0 });
  }

  /** @param {string} id */
  card(id) {
    return this.cards.find((card) => card.id === id);
  }

  /** The cards that are selected, in their order. */
  chosen() {
    return this.cards.filter((card) => this.selected.has(card.id));
  }

  // --- selecting ---

  /** @param {string} id @param {boolean} [extend] from where the selection began */
  select(id, extend = false) {
    const from = extend && this.anchor ? this.indexOf(this.anchor) : -1;
    if (from >= 0) {
      const to = this.indexOf(id);
      for (const card of this.cards.slice(Math.min(from, to), Math.max(from, to) + 1)) this.selected.add(card.id);
    } else {
      if (!this.selected.delete(id)) this.selected.add(id);
      this.anchor = id;
    }
    this.parts.changed();
  }

  selectNone() {
    this.selected.clear();
    this.anchor = null;
    this.parts.changed();
  }

  /** @param {string} id */
  indexOf(id) {
    return this.cards.findIndex((card) => card.id === id);
  }

  // --- where it is scrolled to ---

  get top() {
    return this.element?.scrollTop ?? 0;
  }

  /** @param {number} top */
  restore(top) {
    this.pending = top;
    if (!this.element) return;
    this.element.scrollTop = top;
    if (Math.abs(this.element.scrollTop - top) < 2) this.pending = 0; // else the rows have no width yet
  }

  /** The first card in view, and how far its row is from the upper edge. */
  topCard() {
    const row = this.rows.find((one) => one.tiles.length && one.top + one.height > this.top);
    return row && this.top > 0 ? { id: /** @type {any} */ (row.tiles[0]).card.id, offset: row.top - this.top } : null;
  }

  /** @param {string} id @param {number} [offset] from the upper edge; left out, just into view */
  scrollTo(id, offset) {
    const row = this.rows.find((one) => one.tiles.some((tile) => tile.card.id === id));
    const element = this.element;
    if (!row || !element) return;
    if (offset !== undefined) element.scrollTop = row.top - offset;
    else if (row.top - HEADING < element.scrollTop) element.scrollTop = Math.max(0, row.top - HEADING);
    else if (row.top + row.height > element.scrollTop + element.clientHeight) {
      element.scrollTop = row.top + row.height + GAP - element.clientHeight;
    }
  }

  /** Put the focus on a card and show it. @param {string} id */
  focus(id) {
    this.at = id;
    this.scrollTo(id);
    this.parts.changed();
    /** @type {HTMLElement | null | undefined} */ (this.element?.querySelector(`[data-id="${CSS.escape(id)}"]`))?.focus({ preventScroll: true });
  }

  // --- keys ---

  /** @param {KeyboardEvent} event */
  key(event) {
    const target = /** @type {Element} */ (event.composedPath()[0]);
    if (event.ctrlKey || event.metaKey || event.altKey) {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "a") {
        for (const card of this.cards) this.selected.add(card.id);
        event.preventDefault();
        this.parts.changed();
      }
      return;
    }
    if (!target.matches(".tile")) return;
    const id = target.getAttribute("data-id") ?? "";
    const card = this.card(id);
    if (!card) return;
    const to = this.neighbour(id, event.key);
    if (to !== undefined) {
      if (to) {
        if (event.shiftKey && !this.anchor) this.anchor = id;
        if (event.shiftKey) this.select(to, true);
        this.focus(to);
      }
    } else if (event.key === " ") this.select(id, event.shiftKey);
    else if (event.key === "Enter") this.parts.open(id);
    else if (event.key.toLowerCase() === "h" && this.parts.favourite) this.parts.favourite(card);
    else if (event.key === "Delete" && this.parts.remove) {
      const ids = this.selected.has(id) ? [...this.selected] : [id];
      const after = this.cards.slice(this.indexOf(id)).find((one) => !ids.includes(one.id));
      this.at = after?.id ?? this.cards.find((one) => !ids.includes(one.id))?.id ?? null;
      this.parts.remove(ids);
      if (this.at) this.focus(this.at);
    } else if (event.key === "Escape" && this.selected.size) this.selectNone();
    else if (event.key === "ContextMenu" || (event.key === "F10" && event.shiftKey)) {
      const box = target.getBoundingClientRect();
      this.parts.menu?.(card, { x: box.left + 12, y: box.top + 40 }, /** @type {HTMLElement} */ (target));
    } else return;
    event.preventDefault();
  }

  /** The card that a key leads to; null at an end, undefined for other keys. @param {string} id @param {string} key
   * @returns {string | null | undefined} */
  neighbour(id, key) {
    const index = this.indexOf(id);
    const step = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: this.cards.length - 1 }[key];
    if (step !== undefined) return this.cards[step]?.id ?? null;
    const way = { ArrowUp: -1, ArrowDown: 1, PageUp: -3, PageDown: 3 }[key];
    if (way === undefined) return undefined;
    const rows = this.rows.filter((row) => row.tiles.length);
    const at = rows.findIndex((row) => row.tiles.some((tile) => tile.card.id === id));
    const tile = rows[at]?.tiles.find((one) => one.card.id === id);
    const row = rows[Math.max(0, Math.min(rows.length - 1, at + way))];
    if (!tile || !row || row === rows[at]) return null;
    const middle = tile.left + tile.width / 2;
    const off = (/** @type {import("./rows.js").Tile} */ one) => Math.abs(one.left + one.width / 2 - middle);
    return row.tiles.reduce((best, one) => (off(one) < off(best) ? one : best)).card.id;
  }

  // --- looking ---

  /** @param {string} id */
  look(id) {
    if (this.seen?.id === id) return;
    clearTimeout(this.timer);
    this.seen = { id, plays: false };
    if (!calm()) {
      this.timer = setTimeout(() => {
        if (this.seen?.id !== id) return;
        this.seen.plays = true;
        this.parts.changed();
      }, PLAY_AFTER_MS);
    }
    this.parts.changed();
  }

  /** @param {string} id */
  lookAway(id) {
    if (this.seen?.id !== id) return;
    clearTimeout(this.timer);
    this.seen = null;
    this.parts.changed();
  }

  /** Show the moment below the pointer. @param {PointerEvent} event @param {Card} card */
  scrub(event, card) {
    if (event.pointerType !== "mouse" || !this.seen?.plays || this.seen.id !== card.id) return;
    const tile = /** @type {HTMLElement} */ (event.currentTarget);
    const [box, video] = [tile.getBoundingClientRect(), tile.querySelector("video")];
    if (!video) return;
    video.currentTime = Math.min(0.999, Math.max(0, (event.clientX - box.left) / box.width)) * card.seconds;
    this.played(video, card);
  }

  /** @param {HTMLVideoElement} video @param {Card} card */
  played(video, card) {
    const tile = video.closest(".tile");
    const bar = /** @type {HTMLElement | null | undefined} */ (tile?.querySelector(".moment i"));
    const now = tile?.querySelector(".now");
    if (bar) bar.style.transform = `scaleX(${Math.min(1, video.currentTime / card.seconds)})`;
    now?.setAttribute("data-words", `${Math.min(video.currentTime, card.seconds).toFixed(1)} of ${card.seconds.toFixed(1)} s`);
  }

  // --- how it looks ---

  /** @returns {Child} */
  view() {
    const [from, to] = [this.top - MARGIN, this.top + (this.element?.clientHeight ?? 900) + MARGIN];
    const shown = this.rows.filter(
      (row) => (row.top < to && row.top + row.height > from) || row.tiles.some((tile) => tile.card.id === this.at),
    );
    this.drawn = this.range();
    return h(
      "div",
      {
        key: "shelf",
        class: "shelf",
        onscroll: () => {
          this.scrolled = this.top;
          if (this.range() !== this.drawn) this.parts.changed();
        },
        ref: (/** @type {HTMLElement} */ element) => {
          this.element = element;
          this.sized.observe(element);
        },
      },
      h(
        "div",
        {
          class: "space",
          role: "grid",
          "aria-label": this.parts.label,
          "aria-multiselectable": "true",
          "aria-rowcount": this.rows.length,
          style: `height: ${Math.ceil(this.height)}px`,
          onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event),
        },
        shown.map((row) => this.row(row)),
      ),
    );
  }

  /** Changes when other rows come into view. */
  range() {
    return `${Math.floor((this.element?.scrollTop ?? 0) / (MARGIN / 2))}`;
  }

  /** @param {import("./rows.js").Row} row */
  row(row) {
    const place = { style: `top: ${row.top}px; height: ${row.height}px`, role: "row", "aria-rowindex": this.rows.indexOf(row) + 1 };
    if (row.heading) {
      const { title, more } = row.heading;
      return h(
        "div",
        { key: `day ${title}`, class: "day", ...place },
        h("div", { role: "rowheader" }, h("h2", null, title), " ", h("span", { class: "muted small" }, more)),
      );
    }
    return h("div", { key: `row ${row.tiles[0]?.card.id}`, class: "tiles", ...place }, row.tiles.map((tile) => this.tile(tile, row.height)));
  }

  /** @param {import("./rows.js").Tile} tile @param {number} height */
  tile({ card, left, width }, height) {
    const { id } = card;
    const [selected, seen] = [this.selected.has(id), this.seen?.id === id];
    const gone = this.missing.has(id);
    const plain = (/** @type {() => void} */ act) => (/** @type {Event} */ event) => {
      event.stopPropagation();
      act();
    };
    return h(
      "div",
      {
        key: id,
        class: `tile ${selected ? "selected" : ""} ${seen ? "seen" : ""} ${width < 120 ? "slim" : ""}`,
        role: "gridcell",
        "data-id": id,
        tabindex: id === (this.at ?? this.cards[0]?.id) ? 0 : -1,
        "aria-selected": String(selected),
        "aria-label": this.label(card),
        style: `left: ${left}px; width: ${width}px; height: ${height}px`,
        draggable: "true",
        onclick: (/** @type {MouseEvent} */ event) => {
          this.at = id;
          if (event.shiftKey || event.ctrlKey || event.metaKey) this.select(id, event.shiftKey);
          else this.parts.open(id);
        },
        oncontextmenu: (/** @type {MouseEvent} */ event) => {
          if (!this.parts.menu) return;
          event.preventDefault();
          this.parts.menu(card, { x: event.clientX, y: event.clientY }, /** @type {HTMLElement} */ (event.currentTarget));
        },
        ondragstart: (/** @type {DragEvent} */ event) => {
          const ids = selected ? [...this.selected] : [id];
          event.dataTransfer?.setData("application/x-studio-videos", JSON.stringify(ids));
        },
        onpointerenter: (/** @type {PointerEvent} */ event) => event.pointerType === "mouse" && this.look(id),
        onpointerleave: () => this.lookAway(id),
        onpointermove: (/** @type {PointerEvent} */ event) => this.scrub(event, card),
        onfocus: (/** @type {FocusEvent} */ event) => {
          this.at = id;
          if (/** @type {Element} */ (event.currentTarget).matches(":focus-visible")) this.look(id);
        },
        onblur: () => this.lookAway(id),
      },
      gone
        ? h("span", { class: "gone" }, icon("broken_image"), h("b", null, "Files missing"), words("what", card.title))
        : h("img", {
            key: "picture",
            src: address(`api/v1/jobs/${id}/thumbnail`),
            alt: "",
            draggable: "false",
            decoding: "async",
            onerror: () => {
              this.missing.add(id);
              this.parts.changed();
            },
          }),
      seen &&
        this.seen?.plays &&
        !gone &&
        h("video", {
          key: "video",
          src: address(`api/v1/jobs/${id}/video`),
          muted: true,
          loop: true,
          autoplay: true,
          playsinline: true,
          preload: "auto",
          "aria-hidden": "true",
          tabindex: -1,
          ontimeupdate: (/** @type {Event} */ event) => this.played(/** @type {HTMLVideoElement} */ (event.currentTarget), card),
        }),
      h(
        "button",
        {
          key: "tick",
          class: "tick",
          tabindex: -1,
          "aria-label": selected ? "Deselect" : "Select",
          "aria-pressed": String(selected),
          onclick: (/** @type {MouseEvent} */ event) => plain(() => this.select(id, event.shiftKey))(event),
        },
        selected && icon("check"),
      ),
      this.parts.favourite &&
        h(
          "button",
          {
            key: "heart",
            class: `heart ${card.favourite ? "on" : ""}`,
            tabindex: -1,
            "aria-label": card.favourite ? "Remove favourite" : "Favourite",
            "aria-pressed": String(card.favourite),
            onclick: plain(() => this.parts.favourite?.(card)),
          },
          icon("favorite"),
        ),
      !seen &&
        h(
          "span",
          { key: "badges", class: "badges", "aria-hidden": "true" },
          card.approved && h("span", { class: "glass", title: "Approved" }, icon("verified")),
          card.draft && words("glass", "Draft"),
          words("glass", `${card.seconds.toFixed(1)} s`),
        ),
      seen &&
        !gone &&
        h(
          "span",
          { key: "scrim", class: "scrim", "aria-hidden": "true" },
          words("name", card.title),
          h("span", { class: "line" }, words("now", `${card.seconds.toFixed(1)} s`), words("", ` · ${this.parts.words?.(card) ?? ago(card.finished_at)}`)),
          h("span", { class: "moment" }, h("i", null)),
        ),
    );
  }

  /** @param {Card} card */
  label(card) {
    const marks = [card.favourite && "favourite", card.approved && "approved", card.draft && "draft", this.missing.has(card.id) && "files missing"];
    return [card.title, `${card.seconds.toFixed(1)} seconds`, ...marks].filter(Boolean).join(", ");
  }

  /** End what runs by itself. */
  close() {
    clearTimeout(this.timer);
    this.sized.disconnect();
  }
}

/** Words that are seen only: what a card is called says all of them. @param {string} name @param {string} text */
const words = (name, text) => h("span", { class: `seen-only ${name}`, "data-words": text });
