/** What the gallery shows, as its address says it: Back and Forward work, and a copied address shows the same. */

/** @typedef {typeof EMPTY} Shown */

export const EMPTY = {
  view: "", // favourites, approved, trash; all videos by default
  collection: "",
  search: "",
  favourite: "",
  mode: "",
  model: "",
  shape: "",
  date: "", // one of DAYS
  sort: "", // newest by default
  video: "", // the one that is open
  compare: "", // two, with a comma
};
/** Days back from the end of today. @type {Record<string, number>} */
export const DAYS = { today: 1, week: 7, month: 30, year: 365 };
const FILTERS = /** @type {const} */ (["search", "favourite", "mode", "model", "shape", "date"]);

export class Place {
  /** @param {() => void} changed Back or Forward led elsewhere */
  constructor(changed) {
    this.path = location.pathname;
    this.shown = this.read();
    // Streamlit hears it too and runs the page's script, which mounts the same component with the same data.
    this.listen = () => {
      if (location.pathname !== this.path) return;
      this.shown = this.read();
      changed();
    };
    addEventListener("popstate", this.listen);
  }

  read() {
    const query = new URLSearchParams(location.search);
    const found = { ...EMPTY };
    for (const name of /** @type {(keyof Shown)[]} */ (Object.keys(EMPTY))) found[name] = query.get(name) ?? "";
    return found;
  }

  /** Go to what differs by `changes`: a step that Back takes back, or with `replace` none.
   * @param {Partial<Shown>} changes @param {boolean} [replace] */
  go(changes, replace = false) {
    this.shown = { ...this.shown, ...changes };
    const url = new URL(location.href);
    for (const [name, value] of Object.entries(this.shown)) {
      if (value) url.searchParams.set(name, value);
      else url.searchParams.delete(name);
    }
    if (url.href === location.href) return;
    const opened = Boolean((this.shown.video || this.shown.compare) && (!replace || history.state?.opened));
    history[replace ? "replaceState" : "pushState"]({ opened }, "", url);
  }

  /** Close what is open: by going back, if that leads to the list it was opened from. Whether `changed` follows. */
  close() {
    if (history.state?.opened) {
      history.back();
      return true;
    }
    this.go({ video: "", compare: "" }, true);
    return false;
  }

  /** Whether anything narrows the list. */
  get narrowed() {
    return FILTERS.some((name) => this.shown[name]);
  }

  /** The list, as the API is asked for it. @returns {Record<string, any>} */
  query() {
    const { view, collection, search, favourite, mode, model, shape, date, sort } = this.shown;
    const midnight = new Date();
    midnight.setHours(0, 0, 0, 0);
    const since = DAYS[date] && Math.floor(midnight.getTime() / 1000) - 86_400 * (DAYS[date] - 1);
    return {
      ...{ search, mode, model, shape, collection, since },
      favourite: Boolean(favourite) || view === "favourites",
      approved: view === "approved",
      sort: sort || "newest",
    };
  }

  /** What names the list, without what is open. */
  get key() {
    return JSON.stringify({ ...this.shown, video: "", compare: "" });
  }

  end() {
    removeEventListener("popstate", this.listen);
  }
}
