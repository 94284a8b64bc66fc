/** Pictures of any shape in rows as wide as the page, each row of one height and no picture cropped. */

/** @typedef {import("./types").VideoCard} Card */
/** @typedef {{card: Card, index: number, left: number, width: number}} Tile pixels in its row */
/** @typedef {{top: number, height: number, heading?: {title: string, more: string}, tiles: Tile[]}} Row a row of pictures, or
 * the heading above some */
/** @typedef {{width: number, height: number, gap: number, heading: number, days: boolean, whole: boolean}} Shape `height` is
 * the height of a row that one aims at, `heading` that of a heading; `whole` says that no further cards follow */

const WIDEST = 3; // of a picture, as a part of its height: a wider one is shown with bars
const NARROWEST = 0.4;

/** The rows of `cards`, and the height of them all. @param {Card[]} cards @param {Shape} shape
 * @returns {{rows: Row[], height: number}} */
export function layOut(cards, shape) {
  /** @type {Row[]} */
  const rows = [];
  let top = 0;
  for (const day of shape.days ? inDays(cards) : [{ from: 0, to: cards.length, at: null }]) {
    if (day.at !== null) {
      const last = day.to === cards.length && !shape.whole;
      rows.push({ top, height: shape.heading, heading: dayWords(day.at, last ? null : day.to - day.from), tiles: [] });
      top += shape.heading;
    }
    for (const [from, to, height] of breaks(cards, day.from, day.to, shape)) {
      let left = 0;
      const tiles = cards.slice(from, to).map((card, at) => {
        const tile = { card, index: from + at, left, width: aspect(card) * height };
        left += tile.width + shape.gap;
        return tile;
      });
      rows.push({ top, height, tiles });
      top += height + shape.gap;
    }
  }
  return { rows, height: top };
}

/** Where rows begin and end, and how high each is: the height is as near as possible to the one that is aimed at. The last row
 * is not stretched. @param {Card[]} cards @param {number} from @param {number} to @param {Shape} shape
 * @returns {[number, number, number][]} */
function breaks(cards, from, to, { width, height, gap }) {
  /** @type {[number, number, number][]} */
  const found = [];
  let [begin, sum] = [from, 0];
  const fitting = (/** @type {number} */ count, /** @type {number} */ aspects) => (width - gap * (count - 1)) / aspects;
  for (let at = from; at < to; at++) {
    const next = sum + aspect(/** @type {Card} */ (cards[at]));
    const filled = fitting(at + 1 - begin, next);
    if (filled > height) {
      sum = next;
      continue;
    }
    const before = at > begin ? fitting(at - begin, sum) : Infinity;
    if (before - height < height - filled) {
      found.push([begin, at, before]);
      [begin, sum] = [at, aspect(/** @type {Card} */ (cards[at]))];
    } else {
      found.push([begin, at + 1, filled]);
      [begin, sum] = [at + 1, 0];
    }
  }
  if (begin < to) found.push([begin, to, Math.min(height, fitting(to - begin, sum))]);
  return found;
}

/** @param {Card} card */
const aspect = (card) => Math.min(WIDEST, Math.max(NARROWEST, card.width / card.height || 16 / 9));

/** @param {Card[]} cards */
function inDays(cards) {
  /** @type {{from: number, to: number, at: number, key: string}[]} */
  const days = [];
  cards.forEach((card, index) => {
    const key = new Date(1000 * card.finished_at).toDateString();
    const last = days.at(-1);
    if (last?.key === key) last.to = index + 1;
    else days.push({ from: index, to: index + 1, at: card.finished_at, key });
  });
  return days;
}

/** "Today", "30 November · 14 videos" @param {number} at @param {number | null} count null: not known yet */
function dayWords(at, count, now = new Date()) {
  const then = new Date(1000 * at);
  const midnight = (/** @type {Date} */ date) => new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
  const days = Math.round((midnight(now) - midnight(then)) / 86_400_000);
  const year = then.getFullYear() === now.getFullYear() ? undefined : "numeric";
  const date = then.toLocaleDateString("en-GB", { day: "numeric", month: "long", year: /** @type {"numeric"} */ (year) });
  const videos = count === null ? "" : `${count.toLocaleString("en")} video${count === 1 ? "" : "s"}`;
  const named = days === 0 ? "Today" : days === 1 ? "Yesterday" : null;
  return { title: named ?? date, more: [named && date, videos].filter(Boolean).join(" · ") };
}
