/** What was done last, in a bar at the foot of the window, with a button that undoes it; screen readers read it out. */

import { h, icon } from "./dom.js";

const SHOWN_MS = 10000;

export class Notice {
  /** @param {() => void} changed draws the component again */
  constructor(changed) {
    this.changed = changed;
    /** @type {{words: string, undo: (() => void) | null, bad: boolean} | null} */
    this.shown = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.held = false;
  }

  /** @param {string} words a sentence @param {(() => void) | null} [undo] @param {boolean} [bad] that something was refused */
  say(words, undo = null, bad = false) {
    this.shown = { words, undo, bad };
    this.wait();
    this.changed();
  }

  /** Say why something was refused. @param {unknown} error */
  refuse(error) {
    this.say(error instanceof Error ? error.message : String(error), null, true);
  }

  /** Take back what the bar names. */
  undo() {
    const undo = this.shown?.undo;
    this.close();
    undo?.();
  }

  close() {
    clearTimeout(this.timer);
    this.shown = null;
    this.held = false;
    this.changed();
  }

  wait() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.held ? this.wait() : this.close()), SHOWN_MS);
  }

  view() {
    const hold = (/** @type {boolean} */ held) => () => {
      this.held = held;
    };
    const { words, undo, bad } = this.shown ?? { words: "", undo: null, bad: false };
    return h(
      "div",
      { key: "notice", class: "notices", role: "status", onpointerenter: hold(true), onpointerleave: hold(false), onfocusin: hold(true), onfocusout: hold(false) },
      words &&
        h(
          "div",
          { class: `notice ${bad ? "refused" : ""}` },
          bad && icon("error"),
          h("span", null, words),
          undo && h("button", { class: "button undo", onclick: () => this.undo() }, "Undo"),
          h("button", { class: "button round", "aria-label": "Close", onclick: () => this.close() }, icon("close")),
        ),
    );
  }
}
