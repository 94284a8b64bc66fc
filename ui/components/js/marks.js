/** Stars, approval and a note: what one thinks of a video. */

import { ask } from "./api.js";
import { h, icon } from "./dom.js";

/** @typedef {import("./types").Job} Job */
/** @typedef {(changes: Record<string, any>) => void} Mark */

/** Change the marks of a job: at once on the page, which `drawn` draws, and back where the studio refuses; rejects with the
 * reason. @param {Job} job @param {Record<string, any>} changes @param {() => void} drawn */
export async function keepMarks(job, changes, drawn) {
  const before = { ...job };
  Object.assign(job, changes);
  drawn();
  try {
    await ask("PATCH", `/jobs/${job.id}`, { body: changes });
  } catch (error) {
    Object.assign(job, before);
    drawn();
    throw error;
  }
}

/** Five stars; a press on the last one that is lit takes the rating away. @param {number | null} rating @param {string} whose
 * @param {Mark} mark */
export function stars(rating, whose, mark) {
  return h(
    "span",
    { class: "stars", role: "group", "aria-label": `Rating${whose}` },
    [1, 2, 3, 4, 5].map((value) =>
      h(
        "button",
        {
          class: `star ${rating && value <= rating ? "lit" : ""}`,
          "aria-label": value === 1 ? "1 star" : `${value} stars`,
          "aria-pressed": String(rating === value),
          onclick: () => mark({ rating: rating === value ? null : value }),
        },
        icon("star"),
      ),
    ),
  );
}

/** @param {Job} job @param {Mark} mark @param {string} [label] */
export function note(job, mark, label = "Note") {
  return h(
    "label",
    { key: `note ${job.id}`, class: "note" },
    h("span", { class: "section" }, label),
    h("textarea", {
      rows: 3,
      maxlength: 2000,
      value: job.note ?? "",
      placeholder: "What is good, what to try next",
      onchange: (/** @type {Event} */ event) => mark({ note: /** @type {HTMLTextAreaElement} */ (event.target).value || null }),
    }),
  );
}
