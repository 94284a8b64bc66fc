/**
 * A list whose items a person puts in order: by dragging, by Alt+arrow, from a menu. It knows nothing of what the items
 * are; each move can be undone and is read out.
 */

import { h, icon } from "./dom.js";

/** @typedef {import("./dom.js").Child} Child */
/** @typedef {import("./menu.js").Entry} Entry */
/**
 * @typedef {object} Item
 * @property {string} key
 * @property {string} name how its controls and the words about its moves call it
 * @property {Child} content
 * @property {Entry[]} menu what can be done with it, beside moving
 * @property {boolean} [fixed] it has no place in the order; such items come last
 * @property {Child} [below] what is unfolded under it
 */
/**
 * @typedef {object} Options
 * @property {string} label of the list
 * @property {(key: string, before: string | null) => Promise<unknown>} move puts an item before another one, or last
 * @property {() => void} changed draws the component again
 * @property {import("./menu.js").Menu} menu
 * @property {import("./notice.js").Notice} notice
 * @property {(keys: string[]) => Entry[]} [bulk] what can be done with several items
 * @property {boolean} [sideways] whether the items stand side by side
 */
/** @typedef {{keys: string[], order: string[], element: HTMLElement, from: {x: number, y: number}, at: {x: number, y: number},
 * begun: boolean, frame: number}} Drag */

const DRAG_FROM = 4; // pixels
const EDGE = 56; // pixels from the edge of the window where a drag scrolls
const SCROLL = 14; // pixels a frame, at most
const SETTLE_MS = 4000; // for the new order to come back from the studio

export class Board {
  /** @param {Options} options */
  constructor(options) {
    this.options = options;
    /** @type {Item[]} in the order that is shown */
    this.items = [];
    /** @type {string[] | null} the order that was asked for, until it comes from outside */
    this.wanted = null;
    this.moving = 0;
    this.moves = Promise.resolve();
    this.choosing = false;
    /** @type {Set<string>} */
    this.chosen = new Set();
    this.anchor = "";
    this.active = "";
    /** @type {Drag | null} */
    this.drag = null;
    /** @type {HTMLElement | null} */
    this.element = null;
    this.escape = (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      event.preventDefault();
      this.stopDrag();
    };
  }

  // --- what is shown ---

  /** @param {Item[]} items in the order that the studio has @returns {Child} */
  view(items) {
    const before = this.keys;
    this.items = this.arrange(items);
    const keys = this.keys;
    this.chosen = new Set(keys.filter((key) => this.chosen.has(key)));
    if (!keys.includes(this.active)) this.leave(before.indexOf(this.active));
    if (this.drag && !this.sortable.includes(this.drag.keys[0])) this.endDrag();
    const { label, sideways } = this.options;
    return h(
      "div",
      {
        key: `board-${label}`,
        class: `board ${sideways ? "sideways" : ""} ${this.selecting ? "selecting" : ""} ${this.drag?.begun ? "dragging" : ""}`,
        ref: (/** @type {HTMLElement} */ element) => (this.element = element),
        onpointermove: (/** @type {PointerEvent} */ event) => this.follow(event),
        onpointerup: (/** @type {PointerEvent} */ event) => this.drop(event),
        onpointercancel: () => this.stopDrag(),
      },
      h("ul", { key: "list", role: "list", "aria-label": label, class: "items" }, this.items.map((item, index) => this.row(item, index))),
      h("div", { key: "line", class: "landing", "aria-hidden": "true" }),
      this.chosen.size > 0 && this.bar(),
    );
  }

  get keys() {
    return this.items.map((item) => item.key);
  }

  get sortable() {
    return this.items.filter((item) => !item.fixed).map((item) => item.key);
  }

  /** The item with the focus is gone: the one that came to its place gets it. @param {number} index */
  leave(index) {
    const held = this.elementOf(this.active)?.matches(":focus-within");
    this.active = this.keys[Math.min(index, this.items.length - 1)] ?? this.keys[0] ?? "";
    if (held) queueMicrotask(() => this.elementOf(this.active)?.focus({ preventScroll: true }));
  }

  get selecting() {
    return this.choosing || this.chosen.size > 0;
  }

  /** The items in the order that was asked for, as long as the studio has not shown it itself. @param {Item[]} items */
  arrange(items) {
    const given = items.map((item) => item.key);
    const here = this.wanted?.filter((key) => given.includes(key));
    if (here && !this.moving && equal(here, given.filter((key) => here.includes(key)))) this.wanted = null;
    const order = this.drag?.order ?? this.wanted;
    if (!order) return items;
    const place = (/** @type {Item} */ item) => (order.includes(item.key) ? order.indexOf(item.key) : order.length);
    return [...items].sort((one, other) => place(one) - place(other));
  }

  /** @param {Item} item @param {number} index */
  row(item, index) {
    const { key, name } = item;
    const active = key === this.active;
    const chosen = this.chosen.has(key);
    const place = item.fixed ? "" : `${index + 1} of ${this.sortable.length}: `;
    const tabindex = active ? 0 : -1;
    return h(
      "li",
      {
        key,
        class: `item ${item.fixed ? "fixed" : ""} ${chosen ? "chosen" : ""} ${this.drag?.begun && this.drag.keys.includes(key) ? "dragged" : ""}`,
        tabindex,
        "data-key": key,
        "aria-label": `${place}${name}${chosen ? ", selected" : ""}`,
        "aria-keyshortcuts": item.fixed ? null : this.options.sideways ? "Alt+ArrowLeft Alt+ArrowRight" : "Alt+ArrowUp Alt+ArrowDown",
        onfocusin: () => this.activate(key),
        onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event, item),
        onclick: (/** @type {MouseEvent} */ event) => this.click(event, key),
        oncontextmenu: (/** @type {MouseEvent} */ event) => this.context(event, item),
      },
      h(
        "div",
        { class: "line" },
        h(
          "button",
          { class: "handle", tabindex, disabled: item.fixed, "aria-label": `Move ${name}: drag, or press Alt and an arrow key`, title: "Drag to move", onpointerdown: (/** @type {PointerEvent} */ event) => this.grab(event, key) },
          icon("drag_indicator"),
        ),
        h(
          "label",
          { class: "place" },
          h("input", { type: "checkbox", tabindex, checked: chosen, "aria-label": `Select ${name}`, onclick: (/** @type {MouseEvent} */ event) => this.tick(event, key) }),
          h("span", { "aria-hidden": "true" }, item.fixed ? "" : index + 1),
        ),
        h("div", { class: "content" }, item.content),
        h(
          "button",
          {
            class: "button round more",
            tabindex,
            "aria-label": `Actions for ${name}`,
            "aria-haspopup": "menu",
            onclick: (/** @type {MouseEvent} */ event) => this.openMenu(item, /** @type {HTMLElement} */ (event.currentTarget)),
          },
          icon("more_horiz"),
        ),
      ),
      item.below && h("div", { class: "below" }, item.below),
    );
  }

  /** What can be done with the chosen items. */
  bar() {
    const keys = this.keys.filter((key) => this.chosen.has(key));
    const entries = [...this.moveEntries(keys).slice(0, 1), ...(this.options.bulk?.(keys) ?? [])];
    return h(
      "div",
      { key: "bar", class: "selection", role: "toolbar", "aria-label": "Selected items" },
      h("b", null, `${keys.length} selected`),
      entries.map((entry) => h("button", { key: entry.label, class: `button ${entry.bad ? "bad" : ""}`, disabled: entry.disabled, onclick: entry.act }, icon(entry.icon), entry.label)),
      h("button", { key: "none", class: "button round", "aria-label": "Clear the selection", title: "Clear the selection", onclick: () => this.choose(false) }, icon("close")),
    );
  }

  // --- selection and focus ---

  /** Show the check boxes, or hide them and select nothing. @param {boolean} on */
  choose(on) {
    this.choosing = on;
    if (!on) this.chosen.clear();
    this.options.changed();
  }

  /** @param {string} key */
  activate(key) {
    if (this.active === key) return;
    this.active = key;
    this.options.changed();
  }

  /** @param {string} key @param {boolean} [range] from the item that was chosen before */
  toggle(key, range = false) {
    const [from, to] = [this.keys.indexOf(this.anchor), this.keys.indexOf(key)];
    if (range && from >= 0) {
      for (const one of this.keys.slice(Math.min(from, to), Math.max(from, to) + 1)) this.chosen.add(one);
    } else {
      if (!this.chosen.delete(key)) this.chosen.add(key);
      this.anchor = key;
    }
    this.options.changed();
  }

  /** @param {MouseEvent} event @param {string} key */
  tick(event, key) {
    event.stopPropagation();
    this.toggle(key, event.shiftKey);
  }

  /** @param {MouseEvent} event @param {string} key */
  click(event, key) {
    const row = /** @type {HTMLElement} */ (event.currentTarget);
    const target = /** @type {HTMLElement} */ (event.target);
    if (target.closest("button, a, input, label, summary") || target.closest(".item") !== row) return;
    if (event.shiftKey || event.ctrlKey || event.metaKey || this.choosing) this.toggle(key, event.shiftKey);
  }

  /** @param {number} index */
  focus(index) {
    const key = this.keys[Math.max(0, Math.min(index, this.items.length - 1))];
    this.elementOf(key)?.focus();
  }

  /** @param {string} key @returns {HTMLElement | null} */
  elementOf(key) {
    const rows = /** @type {HTMLElement[]} */ ([...(this.element?.querySelector(".items")?.children ?? [])]);
    return rows.find((row) => row.dataset.key === key) ?? null;
  }

  /** @param {KeyboardEvent} event @param {Item} item */
  key(event, item) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.defaultPrevented || target.closest(".item") !== event.currentTarget) return;
    const [back, on] = this.options.sideways ? ["ArrowLeft", "ArrowRight"] : ["ArrowUp", "ArrowDown"];
    const at = this.keys.indexOf(item.key);
    const step = { [back]: -1, [on]: 1 }[event.key];
    const onRow = target === event.currentTarget;
    if (step && event.altKey) {
      if (!item.fixed) this.shift(item.key, event.shiftKey ? step * this.items.length : step);
    }
    else if (step && !event.ctrlKey) {
      const next = this.keys[at + step];
      if (next && event.shiftKey) {
        if (!this.chosen.size) this.toggle(item.key);
        this.toggle(next, true);
      }
      this.focus(at + step);
    } else if (event.key === "Home") this.focus(0);
    else if (event.key === "End") this.focus(this.items.length - 1);
    else if (event.key === " " && onRow) this.toggle(item.key, event.shiftKey);
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) {
      this.chosen = new Set(this.keys);
      this.options.changed();
    } else if (event.key === "Escape" && this.selecting) this.choose(false);
    else if (event.key === "ContextMenu" || (event.key === "F10" && event.shiftKey)) this.openMenu(item);
    else if (event.key === "Delete") this.remove(item);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // --- the menu ---

  /** @param {Item} item @param {HTMLElement | null} [button] */
  openMenu(item, button = null) {
    const more = button ?? /** @type {HTMLElement | null} */ (this.elementOf(item.key)?.querySelector(".more"));
    if (more) this.options.menu.openAt(`Actions for ${item.name}`, this.entries(item), more);
  }

  /** @param {MouseEvent} event @param {Item} item */
  context(event, item) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (target.closest(".item") !== event.currentTarget) return;
    event.preventDefault();
    event.stopPropagation();
    const row = /** @type {HTMLElement} */ (event.currentTarget);
    if (event.clientX || event.clientY) this.options.menu.open(`Actions for ${item.name}`, this.entries(item), { x: event.clientX, y: event.clientY }, row);
    else this.openMenu(item); // by a key
  }

  /** @param {Item} item @returns {(Entry | null)[]} */
  entries(item) {
    const [harmless, bad] = [item.menu.filter((entry) => !entry.bad), item.menu.filter((entry) => entry.bad)];
    const parts = [this.moveEntries([item.key]), harmless, bad].filter((part) => part.length);
    return parts.flatMap((part, index) => (index ? [null, ...part] : part));
  }

  /** @param {string[]} chosen @returns {Entry[]} */
  moveEntries(chosen) {
    const order = this.sortable;
    const keys = chosen.filter((key) => order.includes(key));
    if (!keys.length) return [];
    const first = equal(order.slice(0, keys.length), keys);
    const last = order.at(-1) === keys[0];
    const words = this.options.sideways ? ["start", "Move left", "Move right"] : ["top", "Move up", "Move down"];
    const signs = this.options.sideways ? ["Alt ⇧ ←", "Alt ←", "Alt →"] : ["Alt ⇧ ↑", "Alt ↑", "Alt ↓"];
    return [
      { label: `Move to the ${words[0]}`, icon: "vertical_align_top", keys: signs[0], disabled: first, act: () => this.move(keys, order.find((key) => !keys.includes(key)) ?? null) },
      { label: words[1], icon: "arrow_upward", keys: signs[1], disabled: first, act: () => this.shift(keys[0], -1) },
      { label: words[2], icon: "arrow_downward", keys: signs[2], disabled: last, act: () => this.shift(keys[0], 1) },
    ];
  }

  /** The Delete key: what the menu has for it, for all chosen items where this is one of them. @param {Item} item */
  remove(item) {
    const keys = this.keys.filter((key) => this.chosen.has(key));
    const entries = keys.includes(item.key) && this.options.bulk ? this.options.bulk(keys) : item.menu;
    entries.find((entry) => entry.keys === "Del")?.act();
  }

  // --- moves ---

  /** @param {string} key @param {number} places negative: towards the first */
  shift(key, places) {
    const rest = this.sortable.filter((one) => one !== key);
    const to = Math.max(0, Math.min(this.sortable.indexOf(key) + places, rest.length));
    this.move([key], rest[to] ?? null);
    this.elementOf(key)?.scrollIntoView({ block: "nearest" });
  }

  /** Put items, in the order that they have, before another one; null: last. @param {string[]} keys @param {string | null} before */
  async move(keys, before) {
    const order = this.sortable;
    const names = this.items.filter((item) => keys.includes(item.key)).map((item) => item.name);
    const moved = order.filter((key) => keys.includes(key));
    const rest = order.filter((key) => !keys.includes(key));
    const at = before === null ? rest.length : rest.indexOf(before);
    const wanted = [...rest.slice(0, at), ...moved, ...rest.slice(at)];
    if (at < 0 || equal(wanted, order)) return;
    const what = names.length === 1 ? `“${names[0]}”` : `${names.length} items`;
    const steps = moved.map((key) => /** @type {[string, string | null]} */ ([key, before]));
    this.ask(wanted, () => steps);
    this.options.notice.say(`Moved ${what} to place ${at + 1} of ${order.length}.`, () => {
      // From the last one: whatever came after an item is in its old place by then.
      this.ask(order, () => moved.toReversed().map((key) => [key, order.slice(order.indexOf(key) + 1).find((one) => this.sortable.includes(one)) ?? null]));
      this.options.notice.say(`Moved ${what} back.`);
    });
  }

  /** Show an order at once and ask for it, a step after the other. @param {string[]} order @param {() => [string, string | null][]} steps */
  ask(order, steps) {
    this.wanted = order;
    this.moving += 1;
    this.options.changed();
    this.moves = this.moves.then(async () => {
      try {
        for (const [key, before] of steps()) await this.options.move(key, before);
        setTimeout(() => this.forget(order), SETTLE_MS);
      } catch (error) {
        this.forget(order);
        this.options.notice.refuse(error);
      }
      this.moving -= 1;
      this.options.changed();
    });
  }

  /** Show the order that the studio has again. @param {string[]} order */
  forget(order) {
    if (this.wanted !== order) return;
    this.wanted = null;
    this.options.changed();
  }

  // --- dragging ---

  /** @param {PointerEvent} event @param {string} key */
  grab(event, key) {
    if (event.button !== 0 || !this.element) return;
    event.preventDefault();
    event.stopPropagation();
    const element = this.elementOf(key);
    if (!element) return;
    element.focus({ preventScroll: true });
    const keys = this.chosen.has(key) ? [key, ...this.sortable.filter((one) => one !== key && this.chosen.has(one))] : [key];
    const at = { x: event.clientX, y: event.clientY };
    this.drag = { keys, order: this.sortable, element, from: at, at, begun: false, frame: 0 };
    this.element.setPointerCapture(event.pointerId);
    window.addEventListener("keydown", this.escape, { capture: true });
  }

  /** @param {PointerEvent} event */
  follow(event) {
    const { drag } = this;
    if (!drag) return;
    drag.at = { x: event.clientX, y: event.clientY };
    if (drag.begun || Math.hypot(drag.at.x - drag.from.x, drag.at.y - drag.from.y) < DRAG_FROM) return;
    drag.begun = true;
    const { left, top } = this.box;
    drag.from = { x: drag.from.x - left, y: drag.from.y - top }; // from the corner of the board, which may scroll
    this.options.changed();
    this.draw();
  }

  /** Frame by frame while an item is dragged: the list may scroll under a pointer that rests. */
  draw() {
    const { drag } = this;
    if (!drag?.begun) return;
    this.scroll(drag.at);
    const { left, top } = this.box;
    const [dx, dy] = [drag.at.x - left - drag.from.x, drag.at.y - top - drag.from.y];
    drag.element.style.transform = this.options.sideways ? `translate(${dx}px, 8px)` : `translate(10px, ${dy}px)`;
    const line = /** @type {HTMLElement | null | undefined} */ (this.element?.querySelector(":scope > .landing"));
    if (line) line.style[this.options.sideways ? "left" : "top"] = `${this.landing().at}px`;
    drag.frame = requestAnimationFrame(() => this.draw());
  }

  get box() {
    return /** @type {HTMLElement} */ (this.element).getBoundingClientRect();
  }

  /** Where what is dragged would land: before which item, and where the line is, in pixels from the start of the board. */
  landing() {
    const drag = /** @type {Drag} */ (this.drag);
    const { sideways } = this.options;
    const [start, end, pointer] = sideways ? [this.box.left, "right", drag.at.x] : [this.box.top, "bottom", drag.at.y];
    const rest = this.sortable.filter((key) => !drag.keys.includes(key));
    const boxes = rest.map((key) => /** @type {HTMLElement} */ (this.elementOf(key)).getBoundingClientRect());
    const middle = (/** @type {DOMRect} */ box) => (sideways ? box.left + box.width / 2 : box.top + box.height / 2);
    const found = boxes.findIndex((box) => pointer < middle(box));
    const at = found < 0 ? rest.length : found;
    const edge = at ? boxes[at - 1][/** @type {"right" | "bottom"} */ (end)] : start;
    return { before: rest[at] ?? null, at: edge - start };
  }

  /** @param {{x: number, y: number}} at */
  scroll(at) {
    const scroller = scrollerOf(/** @type {HTMLElement} */ (this.element), Boolean(this.options.sideways));
    const { left, right, top, bottom } = scroller.getBoundingClientRect();
    const [from, to, pointer] = this.options.sideways ? [Math.max(0, left), Math.min(innerWidth, right), at.x] : [Math.max(0, top), Math.min(innerHeight, bottom), at.y];
    const past = pointer < from + EDGE ? pointer - from - EDGE : pointer > to - EDGE ? pointer - to + EDGE : 0;
    const by = Math.max(-SCROLL, Math.min(SCROLL, (SCROLL * past) / EDGE));
    if (by) scroller.scrollBy(this.options.sideways ? { left: by, behavior: "instant" } : { top: by, behavior: "instant" });
  }

  /** @param {PointerEvent} event */
  drop(event) {
    const { drag } = this;
    if (!drag) return;
    drag.at = { x: event.clientX, y: event.clientY };
    const before = drag.begun ? this.landing().before : undefined;
    this.stopDrag();
    if (before !== undefined) this.move(drag.keys, before);
  }

  /** Put what is dragged back where it was. */
  stopDrag() {
    if (this.endDrag()) this.options.changed();
  }

  /** Whether anything was dragged. */
  endDrag() {
    const { drag } = this;
    if (!drag) return false;
    this.drag = null;
    cancelAnimationFrame(drag.frame);
    drag.element.style.transform = "";
    window.removeEventListener("keydown", this.escape, { capture: true });
    return drag.begun;
  }
}

/** @param {string[]} one @param {string[]} other */
const equal = (one, other) => one.length === other.length && one.every((key, index) => key === other[index]);

/** The element that scrolls a node, through shadow roots. @param {HTMLElement} node @param {boolean} sideways @returns {Element} */
function scrollerOf(node, sideways) {
  /** @type {Node | null} */
  let at = node.parentNode;
  for (; at; at = at instanceof ShadowRoot ? at.host : (/** @type {any} */ (at).assignedSlot ?? at.parentNode)) {
    if (!(at instanceof HTMLElement)) continue;
    const { overflowX, overflowY } = getComputedStyle(at);
    const more = sideways ? at.scrollWidth > at.clientWidth : at.scrollHeight > at.clientHeight;
    if (more && /auto|scroll/.test(sideways ? overflowX : overflowY)) return at;
  }
  return document.scrollingElement ?? document.documentElement;
}
