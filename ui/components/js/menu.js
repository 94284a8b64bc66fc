/** A menu of actions above everything else: one at a time, opened by a button, a right click or the menu key. */

import { h, icon } from "./dom.js";

/** @typedef {import("./dom.js").Child} Child */
/**
 * @typedef {object} Entry an action; null in a list of them is a line
 * @property {string} label @property {string} icon @property {() => void} act
 * @property {string} [keys] what does the same without the menu, as it is shown
 * @property {boolean} [bad] it takes something away
 * @property {boolean} [disabled]
 */

const MARGIN = 8; // pixels to the edges of the window
const LEAVING = ["pointerdown", "wheel", "touchmove", "resize"];

export class Menu {
  /** @param {() => void} changed draws the component again */
  constructor(changed) {
    this.changed = changed;
    /** @type {{label: string, entries: (Entry | null)[], at: {x: number, y: number}, opener: HTMLElement | null, count: number} | null} */
    this.shown = null;
    this.count = 0;
    /** @type {HTMLElement | null} */
    this.element = null;
    this.leave = (/** @type {Event} */ event) => {
      if (!this.element || !event.composedPath().includes(this.element)) this.close(false);
    };
  }

  /** Open it at a point of the window. The focus goes back to `opener`.
   * @param {string} label @param {(Entry | null)[]} entries @param {{x: number, y: number}} at @param {HTMLElement | null} opener */
  open(label, entries, at, opener) {
    this.close(false);
    this.shown = { label, entries, at, opener, count: ++this.count };
    for (const name of LEAVING) window.addEventListener(name, this.leave, { capture: true, passive: true });
    this.changed();
  }

  /** Open it below a button, its right edges together. @param {string} label @param {(Entry | null)[]} entries @param {HTMLElement} button */
  openAt(label, entries, button) {
    const { right, bottom } = button.getBoundingClientRect();
    this.open(label, entries, { x: right - 230, y: bottom + 4 }, button);
  }

  /** @param {boolean} [back] whether the focus goes back to what opened it */
  close(back = true) {
    if (!this.shown) return;
    const { opener } = this.shown;
    this.shown = null;
    for (const name of LEAVING) window.removeEventListener(name, this.leave, { capture: true });
    this.changed();
    if (back) opener?.focus({ preventScroll: true });
  }

  /** The menu, if it is open; anywhere in the component. @returns {Child} */
  view() {
    if (!this.shown) return null;
    const { label, entries, count } = this.shown;
    return h(
      "div",
      {
        key: `menu-${count}`,
        class: "menu",
        role: "menu",
        popover: "manual",
        "aria-label": label,
        ref: (/** @type {HTMLElement} */ element) => queueMicrotask(() => this.appear(element)),
        onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event),
        oncontextmenu: (/** @type {Event} */ event) => event.preventDefault(),
      },
      entries.map((entry) => (entry ? this.item(entry) : h("hr", { role: "separator" }))),
    );
  }

  /** @param {Entry} entry */
  item(entry) {
    const act = () => {
      this.close();
      entry.act();
    };
    return h(
      "button",
      { class: `button ${entry.bad ? "bad" : ""}`, role: "menuitem", tabindex: -1, disabled: entry.disabled, onclick: act },
      icon(entry.icon),
      h("span", null, entry.label),
      entry.keys && h("kbd", { "aria-hidden": "true" }, entry.keys),
    );
  }

  /** @param {HTMLElement} element */
  appear(element) {
    if (!this.shown || !element.isConnected) return;
    this.element = element;
    element.showPopover();
    const { width, height } = element.getBoundingClientRect();
    const { x, y } = this.shown.at;
    const up = y + height > innerHeight - MARGIN ? Math.max(MARGIN, innerHeight - MARGIN - height) : y;
    element.style.left = `${Math.max(MARGIN, Math.min(x, innerWidth - MARGIN - width))}px`;
    element.style.top = `${up}px`;
    this.items()[0]?.focus();
  }

  items() {
    return [.../** @type {NodeListOf<HTMLElement>} */ (this.element?.querySelectorAll("[role=menuitem]:not(:disabled)") ?? [])];
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const items = this.items();
    const at = items.findIndex((item) => item.matches(":focus"));
    const first = (/** @type {HTMLElement} */ item) => item.querySelector("span:not(.icon)")?.textContent?.[0]?.toLowerCase();
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    event.stopPropagation();
    if (event.key === "Escape" || event.key === "Tab") this.close();
    else if (to !== undefined) items[(to + items.length) % items.length]?.focus();
    else if (event.key.length === 1 && event.key !== " ") {
      const next = [...items.slice(at + 1), ...items.slice(0, at + 1)].find((item) => first(item) === event.key.toLowerCase());
      next?.focus();
    } else return; // Enter and Space press the button
    event.preventDefault();
  }
}
