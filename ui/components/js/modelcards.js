/** How a model is shown: the recommended one large, installed ones as cards, those that can be downloaded as rows. */

import { address } from "./api.js";
import { h, icon } from "./dom.js";
import { about, estimate, size } from "./words.js";

/** @typedef {import("./types").ModelRow} Row */
/** @typedef {import("./dom.js").Child} Child */
/**
 * @typedef {object} Shown how a model stands, and what can be done with it
 * @property {boolean} inUse whether the form would render with it
 * @property {string | null} picture the address of a video's thumbnail that it made
 * @property {boolean} offline @property {boolean} coming whether it is being downloaded
 * @property {number} speed bytes a second, 0 where not known
 * @property {() => void} use @property {() => void} download
 * @property {((button: HTMLElement) => void) | null} more opens a menu
 */

const BADGES = /** @type {[string, string, string][]} */ ([
  ["text_to_video", "title", "text"],
  ["image_to_video", "image", "image"],
  ["video_extension", "playlist_add", "extend"],
]);
const SLOW_S = 3600;

/** @param {Row} row */
export const badges = (row) =>
  h("ul", { class: "badges", role: "list", "aria-label": "Makes videos from" }, BADGES.filter(([mode]) => row.modes.includes(mode)).map(([, symbol, label]) => h("li", { key: label, class: "chip" }, icon(symbol), label)));

/** Words that a search looks through. @param {Row} row */
export const searched = (row) => [row.title, row.id, row.licence, ...BADGES.filter(([mode]) => row.modes.includes(mode)).map(([, , label]) => label)].join(" ").toLowerCase();

/** "for 2.7 s": the length of the video of the forecast. @param {Row} row */
const length = ({ forecast }) => `for ${(forecast.num_frames / forecast.fps).toFixed(1)} s`;

/** Whether it fits, and how long a video takes. @param {Row} row */
function fitLine(row) {
  if (!row.denoises) return h("p", { class: "fit muted" }, "A placeholder, not an AI model");
  if (!row.fits) return h("p", { class: "fit caution-text" }, capital(row.fit));
  const slow = row.forecast.total_s > SLOW_S;
  return h("p", { class: `fit ${slow ? "caution-text" : "good-text"}` }, `${capital(row.fit)} · ${about(row.forecast)} ${length(row)} of video`);
}

/** Addresses on the hub, which are opened by a press and never asked by the page. @param {Row} row @returns {Child} */
function links(row) {
  const link = (/** @type {string | null} */ href, /** @type {string} */ label) =>
    href ? h("a", { class: "link", href, target: "_blank", rel: "noopener noreferrer", "aria-label": `${label} of ${row.title}, opens in a new tab` }, label) : label && h("span", { class: "muted" }, label);
  const licence = row.licence && link(row.licence_url, row.licence);
  const card = row.card_url && link(row.card_url, "Model card");
  return h("span", { class: "row addresses" }, licence, licence && card && h("span", { class: "muted", "aria-hidden": "true" }, "·"), card);
}

/** @param {Shown} shown @param {string} title */
const picture = (shown, title) =>
  h("div", { class: `picture ${shown.picture ? "" : "none"}` }, shown.picture ? h("img", { src: address(shown.picture), alt: `The last video made with ${title}`, loading: "lazy" }) : icon("movie"));

/** @param {Row} row @param {Shown} shown */
export function card(row, shown) {
  return h(
    "li",
    { key: row.id, class: "card model", "aria-label": row.title },
    picture(shown, row.title),
    h(
      "div",
      { class: "body" },
      h("div", { class: "row spread" }, h("h3", { class: "section clip", title: row.title }, row.title), useButton(row, shown, "outlined dense")),
      badges(row),
      fitLine(row),
      h("div", { class: "row links" }, links(row), h("span", { class: "space" }), shown.more && h("button", { class: "button round", "aria-label": `More for ${row.title}`, "aria-haspopup": "menu", onclick: (/** @type {Event} */ event) => shown.more?.(/** @type {HTMLElement} */ (event.currentTarget)) }, icon("more_horiz"))),
    ),
  );
}

/** @param {Row} row @param {Shown} shown @param {string} look */
function useButton(row, shown, look) {
  if (shown.inUse) return h("span", { key: "use", class: "chip used" }, icon("check"), "In use");
  return h("button", { key: "use", class: `button ${look}`, "aria-label": `Use ${row.title}`, onclick: shown.use }, "Use");
}

/** @param {Row} row @param {Shown} shown */
export function available(row, shown) {
  return h(
    "li",
    { key: row.id, class: "card absent", "aria-label": row.title },
    h("div", { class: "row spread" }, h("h3", { class: "section clip", title: row.title }, row.title), downloadButton(row, shown, "outlined dense")),
    badges(row),
    fitLine(row),
    h("div", { class: "row links" }, links(row)),
  );
}

/** @param {Row} row @param {Shown} shown @param {string} look */
function downloadButton(row, shown, look) {
  const bytes = row.download_bytes ?? 0;
  const time = shown.speed && bytes ? ` · about ${estimate(bytes / shown.speed)}` : "";
  if (shown.coming) return h("span", { key: "get", class: "chip used" }, icon("downloading"), "Downloading");
  return h(
    "button",
    { key: "get", class: `button ${look}`, disabled: shown.offline, "aria-label": look.includes("primary") ? null : `Download ${row.title}, about ${size(bytes)}${time}`, onclick: shown.download },
    icon("download"),
    look.includes("primary") ? `Download · ${size(bytes)}${time}` : size(bytes),
  );
}

/** @param {Row} row @param {string} why @param {Shown} shown @param {{free: number, memory: number, gpu: boolean}} machine GiB and bytes */
export function recommended(row, why, shown, machine) {
  const { forecast } = row;
  const figures = /** @type {[string, string][]} */ ([
    [`${forecast.width}x${forecast.height}`, "video size"],
    [row.denoises ? about(forecast) : "seconds", `${length(row)}, Best`],
    [`${gib(forecast.peak_gib)} of ${Math.round(machine.memory)} GiB`, machine.gpu ? "GPU memory" : "memory"],
    row.present ? [row.bytes ? size(row.bytes) : "none", "on the disk"] : [size(row.download_bytes ?? 0), `${size(machine.free)} free`],
  ]);
  return h(
    "section",
    { key: "recommended", class: "card recommended", "aria-label": "Recommended for this machine" },
    h("div", { class: "front" }, picture(shown, row.title), h("span", { class: "glass" }, icon("recommend"), "Recommended for this machine")),
    h(
      "div",
      { class: "body" },
      h("div", { class: "row spread" }, h("h2", { class: "name" }, row.title), row.fits && h("span", { class: "chip good" }, icon("check"), row.fit)),
      badges(row),
      h("p", { class: "muted why" }, why),
      h("dl", { class: "figures" }, figures.map(([value, label]) => h("div", { key: label }, h("dt", null, label), h("dd", null, value)))),
      h(
        "div",
        { class: "row actions" },
        row.present
          ? h("button", { key: "go", class: "button primary", onclick: shown.use }, icon("movie"), shown.inUse ? "Create a video with it" : "Use it")
          : downloadButton(row, shown, "primary"),
        shown.inUse && h("span", { key: "used", class: "chip used" }, icon("check"), "In use"),
        h("span", { class: "space" }),
        links(row),
      ),
    ),
  );
}

/** @param {number} value */
const gib = (value) => (value < 9.95 ? value.toFixed(1) : String(Math.round(value)));

/** @param {string} text */
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
