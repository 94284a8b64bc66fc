/**
 * The queue: the running job with its picture, the waiting ones in an order that is changed by hand, and beside them what
 * needs attention and what ended today.
 */

import { address, ApiError, ask, get, post } from "./api.js";
import { canNotify, rings, toggle } from "./bell.js";
import { Board } from "./board.js";
import { h, icon, patch } from "./dom.js";
import { change, current, formOf, load, onForm, replace } from "./draft.js";
import { live, subscribe } from "./live.js";
import { Menu } from "./menu.js";
import { Notice } from "./notice.js";
import { calm, rootOf } from "./theme.js";
import { QUALITY, about, ago, clock, counted, duration, estimate } from "./words.js";

/** @typedef {import("./types").Job} Job */
/** @typedef {import("./dom.js").Child} Child */
/** @typedef {import("./board.js").Item} Item */
/** @typedef {import("./menu.js").Entry} Entry */
/** @typedef {{gpu_gib: number | null, memory_gib: number}} Data what the machine has */
/** @typedef {{key: string, jobs: Job[], batch: string | null}} Row a job that waits, or those of one batch */
/** @typedef {Map<string, number>} Starts when a job is expected to start, in seconds since the epoch */

const SIDE_MOST = 5; // jobs in each list at the side, before "Show all"
const BATCH_MOST = 500;
const SYMBOLS = /** @type {Record<string, string>} */ ({ text_to_video: "movie", image_to_video: "image", video_extension: "playlist_add" });
const STAGES = /** @type {Record<string, string>} */ ({ loading: "Loading the model", encoding: "Encoding", denoising: "Denoising", decoding: "Decoding", saving: "Saving" });

class Queue {
  /** @param {HTMLElement} root @param {import("./types").Component<Data>} component */
  constructor(root, component) {
    this.root = root;
    this.component = component;
    const changed = () => this.render();
    this.menu = new Menu(changed);
    this.notice = new Notice(changed);
    this.board = this.newBoard("Waiting jobs", (key) => this.row(key)?.jobs ?? []);
    /** @type {Map<string, Board>} of the batches, by their ids */
    this.boards = new Map();
    /** @type {Set<string>} batches that are unfolded, and lists at the side of which all is shown */
    this.open = new Set();
    /** @type {Row[]} */
    this.rows = [];
    /** @type {Job[]} that need attention, the last one first */
    this.stopped = [];
    /** @type {Job[]} that ended today, the last one first */
    this.today = [];
    /** @type {Map<string, {total: number, done: number}>} */
    this.batches = new Map();
    /** @type {Set<string>} jobs that were asked to end */
    this.cancelling = new Set();
    this.seen = "";
    this.asking = false;
    this.gone = false; // the page was left; an answer may still be on its way
    const ends = [subscribe(() => this.follow()), onForm(changed)];
    const undo = (/** @type {KeyboardEvent} */ event) => this.key(event);
    root.addEventListener("keydown", undo);
    this.end = () => {
      this.gone = true;
      for (const end of ends) end();
      this.menu.close(false);
      root.removeEventListener("keydown", undo);
    };
    load();
    this.render();
  }

  // --- what there is ---

  follow() {
    const ended = [...live.jobs.values()].filter((job) => !live.order.includes(job.id)).map((job) => `${job.id} ${job.state}`);
    const seen = JSON.stringify([ended, live.order, live.videos]);
    if (live.connected && seen !== this.seen) {
      this.seen = seen;
      this.ask();
    }
    for (const id of this.cancelling) if (live.jobs.get(id)?.state !== "running") this.cancelling.delete(id);
    this.render();
  }

  /** Read what has ended, and how far the batches are; again if that has changed meanwhile. */
  async ask() {
    if (this.asking) return;
    this.asking = true;
    for (let seen = ""; seen !== this.seen;) {
      seen = this.seen;
      try {
        await this.read();
      } catch {
        this.seen = ""; // the studio is away: once it is back
        break;
      }
    }
    this.asking = false;
    this.render();
  }

  async read() {
    const midnight = new Date().setHours(0, 0, 0, 0) / 1000;
    const batches = [...new Set(this.active.map((job) => job.batch))].filter((batch) => batch !== null);
    const [stopped, today, ...sets] = await Promise.all([
      get("/jobs", { state: ["failed", "quarantined", "unreadable"], limit: 200 }),
      get("/jobs", { state: ["succeeded", "cancelled"], ended_since: midnight, limit: 500 }),
      ...batches.map((batch) => get("/jobs", { batch, limit: BATCH_MOST })),
    ]);
    const latest = (/** @type {Job} */ one, /** @type {Job} */ other) => (other.finished_at ?? 0) - (one.finished_at ?? 0);
    this.stopped = stopped.jobs.sort(latest);
    this.today = today.jobs.sort(latest);
    this.batches = new Map(
      sets.map(({ jobs }, index) => [batches[index], { total: jobs.length, done: jobs.filter((/** @type {Job} */ job) => job.state === "succeeded").length }]),
    );
  }

  get active() {
    return live.order.map((id) => live.jobs.get(id)).filter((job) => job !== undefined);
  }

  /** The job of the card: the one that runs; if none does, one that stands still in the middle, or the next one, which is
   * about to start: so the page stays as it is where a job follows another. */
  get top() {
    const { active } = this;
    const next = active.find((job) => job.state === "queued");
    return (
      active.find((job) => job.state === "running") ??
      active.find((job) => job.state === "paused" && job.started_at !== null) ??
      (live.paused || next?.error ? undefined : next)
    );
  }

  /** @param {string} key */
  row(key) {
    return this.rows.find((row) => row.key === key);
  }

  /** The waiting jobs, those of a batch together where its first one stands; then the paused ones.
   * @param {Job | undefined} top @returns {Row[]} */
  rowsOf(top) {
    const jobs = this.active.filter((job) => job !== top);
    /** @type {Map<string, Row>} */
    const rows = new Map();
    for (const job of [...jobs.filter((one) => one.state !== "paused"), ...jobs.filter((one) => one.state === "paused")]) {
      const several = job.batch && ((this.batches.get(job.batch)?.total ?? 0) > 1 || jobs.filter((one) => one.batch === job.batch).length > 1);
      const batch = several ? job.batch : null;
      const key = batch ? `batch-${batch}` : job.id;
      const row = rows.get(key) ?? { key, jobs: [], batch };
      row.jobs.push(job);
      rows.set(key, row);
    }
    return [...rows.values()];
  }

  /** When each job starts and, under "", when all are done; nothing of what comes after one that waits for something.
   * @returns {Starts} */
  starts() {
    /** @type {Starts} */
    const starts = new Map();
    if (live.paused || this.top?.state === "paused") return starts;
    let at = Date.now() / 1000;
    for (const job of this.active) {
      if (job.state === "paused") continue;
      if (job.error) return starts;
      if (job.state === "queued") starts.set(job.id, at);
      at += secondsLeft(job);
    }
    if (live.order.length === this.active.length) starts.set("", at);
    return starts;
  }

  // --- what is done ---

  /** Do something, or say why it was refused. @param {() => Promise<unknown>} work */
  async act(work) {
    try {
      await work();
    } catch (error) {
      this.notice.refuse(error);
    }
  }

  /** @param {string} label @param {(key: string) => Job[]} jobsOf what is behind an item @returns {Board} */
  newBoard(label, jobsOf) {
    const waiting = (/** @type {string} */ key) => jobsOf(key).filter((job) => job.state === "queued");
    return new Board({
      label,
      menu: this.menu,
      notice: this.notice,
      changed: () => this.render(),
      move: async (key, before) => {
        const place = before === null ? null : waiting(before)[0]?.id ?? null;
        for (const job of waiting(key)) await post(`/jobs/${job.id}/move`, { before: place });
      },
      bulk: (keys) => this.entries(keys.flatMap(jobsOf)),
    });
  }

  /** What can be done with jobs that wait. @param {Job[]} jobs @returns {Entry[]} */
  entries(jobs) {
    const paused = jobs.filter((job) => job.state === "paused");
    const queued = jobs.filter((job) => job.state === "queued");
    const [only] = jobs;
    const all = jobs.length > 1 ? " all" : "";
    return /** @type {Entry[]} */ ([
      jobs.length === 1 && only.kind === "render" && { label: "Edit", icon: "edit", act: () => this.edit(only) },
      queued.length > 0 && { label: `Pause${all}`, icon: "pause", act: () => this.act(() => send("pause", queued)) },
      paused.length > 0 && { label: `Resume${all}`, icon: "play_arrow", act: () => this.resume(paused) },
      { label: `Remove${all}`, icon: "delete", keys: "Del", bad: true, act: () => this.remove(jobs) },
    ].filter(Boolean));
  }

  /** Open the request of a job in the form; Generate replaces the job, which is held until then. @param {Job} job */
  edit(job) {
    return this.act(async () => {
      if (job.state === "queued") await post(`/jobs/${job.id}/pause`);
      await replace({ ...formOf(job), replaces: job.id });
      this.component.setTriggerValue("create", job.id);
    });
  }

  /** @param {Job[]} jobs */
  resume(jobs) {
    return this.act(async () => {
      await send("resume", jobs);
      if (jobs.some((job) => job.id === current().replaces)) change({ replaces: null });
    });
  }

  /** Cancel jobs that have not ended. What was waiting comes back to its place. @param {Job[]} jobs */
  remove(jobs) {
    const order = live.order;
    const after = (/** @type {Job} */ job) => order.slice(order.indexOf(job.id) + 1).find((id) => live.jobs.get(id)?.state === "queued") ?? null;
    return this.act(async () => {
      await send("cancel", jobs);
      this.notice.say(`Removed ${named(jobs)}.`, () =>
        this.act(async () => {
          await send("retry", jobs);
          for (const job of jobs.toReversed()) if (after(job)) await post(`/jobs/${job.id}/move`, { before: after(job) });
        }),
      );
    });
  }

  /** @param {Job} job */
  cancel(job) {
    this.cancelling.add(job.id);
    this.render();
    return this.act(async () => {
      await send("cancel", [job]);
      this.notice.say(`Cancelled ${named([job])}. Its progress is kept.`);
    });
  }

  /** Put jobs that have ended into the trash. @param {Job[]} jobs */
  clear(jobs) {
    return this.act(async () => {
      await send("delete", jobs);
      this.drop(jobs);
      this.notice.say(`Removed ${named(jobs)}.`, () =>
        this.act(async () => {
          await send("restore", jobs);
          await this.ask();
        }),
      );
    });
  }

  /** @param {Job[]} jobs */
  retry(jobs) {
    return this.act(async () => {
      await send("retry", jobs);
      this.drop(jobs);
    });
  }

  /** Take jobs out of the lists at the side before the studio tells of it. @param {Job[]} jobs */
  drop(jobs) {
    const ids = jobs.map((job) => job.id);
    for (const id of ids) if (!live.order.includes(id)) live.jobs.delete(id);
    this.stopped = this.stopped.filter((job) => !ids.includes(job.id));
    this.today = this.today.filter((job) => !ids.includes(job.id));
    this.render();
    this.ask();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.key.toLowerCase() !== "z" || !(event.ctrlKey || event.metaKey) || !this.notice.shown?.undo) return;
    event.preventDefault();
    this.notice.undo();
  }

  // --- what is shown ---

  render() {
    if (this.gone) return;
    const { top } = this;
    this.rows = this.rowsOf(top);
    const starts = this.starts();
    const cancelled = this.today.filter((job) => job.state === "cancelled");
    const finished = this.today.filter((job) => job.state === "succeeded");
    patch(this.root, [
      live.connected === false && h("p", { key: "away", class: "banner caution", role: "status" }, icon("cloud_off"), "The studio is not running. This page reconnects by itself."),
      h(
        "div",
        { key: "columns", class: "columns", "aria-busy": live.connected === null ? "true" : null },
        h(
          "div",
          { key: "main", class: "main" },
          this.titleLine(starts.get("")),
          live.paused && this.pausedBanner(top),
          top && this.card(top),
          this.rows.length > 0 && this.waiting(starts),
          live.connected !== null && !top && !this.rows.length && this.empty(),
        ),
        h(
          "aside",
          { key: "side", class: "side", "aria-label": "Ended jobs and what happens at the end" },
          this.stopped.length > 0 && this.attention(),
          cancelled.length > 0 && this.list("cancelled", "Cancelled today", cancelled, (job) => this.cancelledRow(job), this.clearAll(cancelled, "cancelled")),
          finished.length > 0 && this.list("finished", "Finished today", finished, (job) => this.finishedRow(job), h("button", { class: "button link", onclick: () => this.component.setTriggerValue("gallery", {}) }, "Gallery")),
          this.atTheEnd(),
        ),
      ),
      this.menu.view(),
      this.notice.view(),
    ]);
  }

  /** @param {number | undefined} done when all jobs are */
  titleLine(done) {
    const flip = () => this.act(() => post(`/queue/${live.paused ? "resume" : "pause"}`));
    return h(
      "header",
      { key: "title", class: "head" },
      h("h1", { class: "title" }, "Queue"),
      h("p", { class: "muted" }, "One video at a time, top to bottom"),
      h("span", { class: "space" }),
      done !== undefined && this.rows.length + (this.top ? 1 : 0) > 0 && h("span", { key: "done", class: "chip all-done" }, icon("event_available"), `All done about ${clock(done)}`),
      h("button", { key: "flip", class: "button outlined", disabled: !live.connected, onclick: flip }, icon(live.paused ? "play_arrow" : "pause"), live.paused ? "Resume queue" : "Pause queue"),
    );
  }

  /** @param {Job | undefined} top */
  pausedBanner(top) {
    const next = top?.state === "running" ? "The running job finishes; then nothing starts." : "Nothing starts until you resume it.";
    return h("p", { key: "paused", class: "banner caution" }, icon("pause_circle"), h("b", null, "The queue is paused."), next);
  }

  empty() {
    return h(
      "section",
      { key: "empty", class: "empty" },
      icon("inbox"),
      h("h2", { class: "section" }, "The queue is empty"),
      h("p", { class: "muted" }, "Videos that you start on Create wait here for their turn."),
      h("button", { class: "button primary", onclick: () => this.component.setTriggerValue("create", "") }, icon("movie"), "Create a video"),
    );
  }

  // --- the running job ---

  /** @param {Job} job */
  card(job) {
    const { progress } = job;
    const running = job.state === "running";
    const cancelling = this.cancelling.has(job.id);
    const paused = job.state === "paused";
    const state = cancelling ? "Cancelling" : paused ? "Paused" : !running ? "Starting" : job.kind === "export" ? "Exporting" : "Rendering";
    const percent = Math.floor(100 * (progress?.fraction ?? 0));
    return h(
      "article",
      { key: `card-${job.id}`, class: "card running", "aria-label": `${state}: ${job.title}` },
      h("div", { class: "picture" }, this.livePicture(job), h("span", { class: "glass state" }, h("span", { class: `dot ${paused ? "still" : ""}` }), state), this.previewGlass(job)),
      h(
        "div",
        { class: "about" },
        h("h2", { class: "name", title: job.title }, job.title),
        h("div", { class: "chips" }, chips(job).map(([symbol, text]) => h("span", { class: "chip" }, symbol && icon(symbol), text))),
        h("div", { class: "row spread stage" }, h("span", { class: "words" }, stageWords(job)), h("b", null, `${percent} %`)),
        this.bar(job, percent),
        h("dl", { class: "figures" }, this.figures(job).map(([value, label]) => h("div", { key: label }, h("dt", null, label), h("dd", null, value)))),
        h("p", { class: "reason small muted" }, (running && progress?.eta_reason) || ""),
        h(
          "div",
          { class: "row actions" },
          h("button", { class: "button outlined", onclick: () => this.component.setTriggerValue("create", "") }, icon("movie"), "Watch on Create"),
          h("span", { class: "space" }),
          !paused
            ? h("button", { key: "pause", class: "button outlined", disabled: cancelling, onclick: () => this.act(() => send("pause", [job])) }, icon("pause"), "Pause")
            : h("button", { key: "resume", class: "button tinted", disabled: cancelling, onclick: () => this.resume([job]) }, icon("play_arrow"), "Resume"),
          h("button", { key: "cancel", class: "button outlined", disabled: cancelling, onclick: () => this.cancel(job) }, icon("close"), "Cancel"),
        ),
      ),
    );
  }

  /** @param {Job} job */
  livePicture(job) {
    if (calm()) return h("p", { key: "calm", class: "soon" }, "The preview is off because your system is set to reduced motion.");
    if (live.preview?.id === job.id) return h("img", { key: "live", src: address(live.preview.url), alt: `Preview of ${job.title}` });
    const picture = pictureOf(job);
    return [
      picture && h("img", { key: "still", class: "wash", src: picture, alt: "" }),
      h("p", { key: "soon", class: "soon" }, job.kind === "render" && job.state === "running" ? "Preview starts in a few seconds" : ""),
    ];
  }

  /** @param {Job} job */
  previewGlass(job) {
    const step = job.progress?.step;
    return live.preview?.id === job.id && !calm() && step ? h("span", { class: "glass step" }, icon("visibility"), `preview, step ${step}`) : null;
  }

  /** A segment for each window, as wide as it is long. @param {Job} job @param {number} percent */
  bar(job, percent) {
    const { progress, plan } = job;
    const windows = /** @type {{start: number, stop: number}[]} */ (plan.windows ?? []);
    const widths = windows.length ? windows.map((window) => window.stop - window.start) : [1];
    const segments = widths.map((width, index) => {
      const { window = 0, step = 0, steps = 0, stage = "" } = progress ?? {};
      const saved = stage === "saving" || window > index + 1;
      const part = widths.length === 1 ? percent / 100 : saved ? 1 : window === index + 1 && steps ? step / steps : 0;
      const making = !saved && window === index + 1 && widths.length > 1;
      return h("i", { style: `flex: ${width}` }, h("i", { class: making ? "making" : "", style: `width: ${(100 * part).toFixed(1)}%` }));
    });
    return h("div", { class: "bar", role: "progressbar", "aria-label": "Progress", "aria-valuenow": percent, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuetext": `${percent} %, ${stageWords(job)}` }, segments);
  }

  /** @param {Job} job @returns {[string, string][]} values with their labels; always as many */
  figures(job) {
    const { progress, plan } = job;
    const { gpu_gib, memory_gib } = this.component.data;
    const on_gpu = /** @type {any} */ (plan).on_gpu && gpu_gib;
    const elapsed = job.started_at && job.state === "running" ? duration(Math.round(Date.now() / 1000 - job.started_at)).replace(".0 s", " s") : "–";
    const saved = progress?.saved_at ? ago(progress.saved_at).replace("just now", "seconds ago") : "none yet";
    return [
      [elapsed, "elapsed"],
      [progress?.eta_s === null || progress?.eta_s === undefined || job.state !== "running" ? "–" : left(job), "left"],
      [saved, "checkpoint"],
      [`${gib(plan.forecast.peak_gib)} of ${Math.round(on_gpu ? gpu_gib : memory_gib)} GiB`, on_gpu ? "GPU memory" : "memory"],
    ];
  }

  // --- the waiting jobs ---

  /** @param {Starts} starts */
  waiting(starts) {
    const waiting = this.active.filter((job) => job.state === "queued" && job !== this.top);
    const work = waiting.reduce((sum, job) => sum + secondsLeft(job), 0);
    const more = live.order.length - this.active.length;
    const paused = this.active.filter((job) => job.state === "paused" && job !== this.top).length;
    const parts = [
      waiting.length > 0 && counted(waiting.length + more, "job"),
      waiting.length > 0 && !more && `about ${estimate(work)} of work`,
      paused > 0 && `${paused} paused`,
    ].filter(Boolean);
    const items = this.rows.map((row) => (row.batch ? this.batchItem(row, starts) : this.item(row.jobs[0], starts)));
    return h(
      "section",
      { key: "waiting", class: "waiting", "aria-label": "Waiting" },
      h(
        "div",
        { class: "row section-line" },
        h("h2", { class: "section" }, "Waiting"),
        h("span", { class: "muted small" }, parts.join(", ")),
        h("span", { class: "space" }),
        h("button", { class: "button", "aria-pressed": String(this.board.choosing), onclick: () => this.board.choose(!this.board.selecting) }, icon(this.board.selecting ? "close" : "check_box"), this.board.selecting ? "Done" : "Select"),
      ),
      this.board.view(items),
      more > 0 && h("p", { class: "muted small" }, `and ${counted(more, "more job")}`),
    );
  }

  /** @param {Job} job @param {Starts} starts @returns {Item} */
  item(job, starts) {
    return {
      key: job.id,
      name: short(job.title),
      fixed: job.state === "paused",
      menu: this.entries([job]),
      content: h("div", { class: "job" }, thumbnail(job), h("div", { class: "texts" }, h("b", { title: job.title }, job.title), h("span", { class: "muted small" }, settings(job))), this.stateChip(job, starts), h("span", { class: "time" }, timeOf(job))),
    };
  }

  /** @param {Row} row @param {Starts} starts @returns {Item} */
  batchItem(row, starts) {
    const batch = /** @type {string} */ (row.batch);
    const first = row.jobs.reduce((one, other) => (other.id < one.id ? other : one)); // the one that was made first
    const waiting = row.jobs.filter((job) => job.state === "queued");
    const running = this.top?.batch === batch ? 1 : 0;
    const { total, done } = this.batches.get(batch) ?? { total: row.jobs.length + running, done: 0 };
    const togo = row.jobs.length + running;
    const open = this.open.has(row.key);
    const board = this.boards.get(batch) ?? this.newBoard("Jobs of the batch", (id) => row.jobs.filter((job) => job.id === id));
    this.boards.set(batch, board);
    board.options.move = (id, before) => post(`/jobs/${id}/move`, { before: before ?? this.after(batch) });
    board.options.bulk = (ids) => this.entries(ids.map((id) => live.jobs.get(id)).filter((job) => job !== undefined));
    const work = waiting.reduce((sum, job) => sum + secondsLeft(job), 0);
    const fold = () => {
      if (!this.open.delete(row.key)) this.open.add(row.key);
      this.render();
    };
    const title = new Set(row.jobs.map((job) => job.title)).size === 1 ? first.title : `${first.title} and others`;
    return {
      key: row.key,
      name: `batch ${short(title)}`,
      fixed: waiting.length === 0,
      menu: this.entries(row.jobs),
      content: h(
        "div",
        { class: "job" },
        h("div", { class: "stack" }, thumbnail(first)),
        h(
          "div",
          { class: "texts" },
          h("button", { class: "fold", "aria-expanded": String(open), onclick: fold }, icon(open ? "expand_more" : "chevron_right"), h("b", { title }, `Batch: ${title}`)),
          h("span", { class: "muted small" }, `${counted(total, "job")}, ${done} finished, ${togo} to go`),
          h("span", { class: "meter", role: "progressbar", "aria-label": "Finished jobs of the batch", "aria-valuenow": done, "aria-valuemin": 0, "aria-valuemax": total }, h("i", { style: `width: ${(100 * done) / total}%` })),
        ),
        this.stateChip(waiting[0] ?? first, starts),
        h("span", { class: "time" }, waiting.length ? `about ${estimate(work)}` : ""),
      ),
      below: open && board.view(row.jobs.map((job) => this.item(job, starts))),
    };
  }

  /** The waiting job that comes after the last one of a batch. @param {string} batch */
  after(batch) {
    const waiting = this.active.filter((job) => job.state === "queued");
    return waiting[waiting.findLastIndex((job) => job.batch === batch) + 1]?.id ?? null;
  }

  /** Why a job waits, and until when. @param {Job} job @param {Starts} starts */
  stateChip(job, starts) {
    const chip = (/** @type {string} */ kind, /** @type {string} */ symbol, /** @type {string} */ text) =>
      h("span", { class: `chip state-chip ${kind}`, title: text }, icon(symbol), h("span", null, text));
    if (job.state === "paused") {
      if (job.id === current().replaces) return chip("caution", "edit", "Paused while you edit it");
      return chip("caution", "pause", "Paused by you");
    }
    if (job.error) return chip("caution", "hourglass_top", job.error.message);
    if (live.paused) return chip("", "pause", "Queue paused");
    if (this.top?.state === "paused") return chip("caution", "pause", "Waits for the paused job");
    const start = starts.get(job.id);
    if (start === undefined) return chip("", "schedule", "Waits for the jobs before it");
    return chip("", "schedule", start * 1000 - Date.now() < 5000 ? "Starts next" : `Starts about ${clock(start)}`);
  }

  // --- the side ---

  attention() {
    const shown = this.open.has("attention") ? this.stopped : this.stopped.slice(0, SIDE_MOST);
    return h(
      "section",
      { key: "attention", class: "card panel urgent", "aria-label": "Needs attention" },
      h("div", { class: "row section-line" }, icon("error"), h("h2", { class: "section" }, "Needs attention"), h("span", { class: "muted small" }, this.stopped.length), h("span", { class: "space" }), this.clearAll(this.stopped, "failed")),
      h("ul", { role: "list" }, shown.map((job) => this.attentionRow(job))),
      this.showAll("attention", this.stopped.length),
    );
  }

  /** @param {Job} job */
  attentionRow(job) {
    const { error } = job;
    const ready = job.progress?.frames_ready ?? 0;
    const kept = ready && job.plan.fps ? ` The first ${duration(ready / job.plan.fps)} are kept.` : "";
    const readable = job.state !== "unreadable";
    const kind = job.state === "quarantined" ? "Set aside. " : "";
    return h(
      "li",
      { key: job.id, class: "ended" },
      h("div", { class: "row top" }, thumbnail(job), h("div", { class: "texts" }, h("b", { title: job.title }, job.title), h("span", { class: "small muted reason-text" }, `${kind}${error?.message ?? "It stopped."}${kept}`))),
      h(
        "div",
        { class: "row buttons" },
        readable && h("button", { class: "button tinted", "aria-label": `Retry ${short(job.title)}`, onclick: () => this.retry([job]) }, icon("refresh"), "Retry"),
        readable && job.kind === "render" && h("button", { class: "button outlined", "aria-label": `Edit and retry ${short(job.title)}`, onclick: () => this.edit(job) }, icon("edit"), "Edit and retry"),
        h("button", { class: "button", "aria-label": `Remove ${short(job.title)}`, onclick: () => this.clear([job]) }, "Remove"),
      ),
      h(
        "details",
        { class: "small" },
        h("summary", { class: "muted" }, "Details"),
        h("pre", null, [`code: ${error?.code ?? "none"}`, `attempts: ${job.attempts}`, `job: ${job.id}`, ...(error?.log ?? [])].join("\n")),
      ),
    );
  }

  /** @param {Job[]} jobs @param {string} kind */
  clearAll(jobs, kind) {
    return jobs.length > 1 && h("button", { class: "button link", "aria-label": `Clear all ${kind} jobs`, onclick: () => this.clear(jobs) }, "Clear all");
  }

  /** @param {string} name @param {string} title @param {Job[]} jobs @param {(job: Job) => Child} row @param {Child} action */
  list(name, title, jobs, row, action) {
    const shown = this.open.has(name) ? jobs : jobs.slice(0, SIDE_MOST);
    return h(
      "section",
      { key: name, class: "card panel", "aria-label": title },
      h("div", { class: "row section-line" }, h("h2", { class: "section" }, title), h("span", { class: "muted small" }, jobs.length), h("span", { class: "space" }), action),
      h("ul", { role: "list" }, shown.map(row)),
      this.showAll(name, jobs.length),
    );
  }

  /** @param {string} name @param {number} count */
  showAll(name, count) {
    if (count <= SIDE_MOST || this.open.has(name)) return null;
    const show = () => {
      this.open.add(name);
      this.render();
    };
    return h("button", { class: "button link", onclick: show }, `Show all ${count}`);
  }

  /** @param {Job} job */
  cancelledRow(job) {
    return h(
      "li",
      { key: job.id, class: "row ended" },
      thumbnail(job),
      h("div", { class: "texts" }, h("b", { title: job.title }, job.title), h("span", { class: "small muted" }, clock(job.finished_at ?? job.created_at))),
      h("button", { class: "button round", "aria-label": `Retry ${short(job.title)}`, title: "Retry", onclick: () => this.retry([job]) }, icon("refresh")),
      h("button", { class: "button round", "aria-label": `Remove ${short(job.title)}`, title: "Remove", onclick: () => this.clear([job]) }, icon("delete")),
    );
  }

  /** @param {Job} job */
  finishedRow(job) {
    const took = job.artifact?.render_s ?? (job.finished_at ?? 0) - (job.started_at ?? 0);
    const open = () => this.component.setTriggerValue("gallery", { video: job.id });
    const words = h("div", { class: "texts" }, h("b", { title: job.title }, job.title), h("span", { class: "small muted" }, `${clock(job.finished_at ?? 0)} · took ${duration(took)}`));
    if (job.kind !== "render") {
      return h("li", { key: job.id, class: "ended" }, h("a", { class: "row opens", href: address(`api/v1/jobs/${job.id}/file`), download: "" }, thumbnail(job), words, icon("download", "Download")));
    }
    return h("li", { key: job.id, class: "ended" }, h("button", { class: "row opens", onclick: open }, thumbnail(job), words));
  }

  atTheEnd() {
    const flip = (/** @type {import("./bell.js").Way} */ way) => async () => {
      const on = await toggle(way);
      if (way === "notify" && !on && !canNotify()) this.notice.say("Your browser does not allow notifications of this page. Allow them in its settings for this site.");
      else this.render();
    };
    const choice = (/** @type {import("./bell.js").Way} */ way, /** @type {string} */ symbol, /** @type {string} */ label) =>
      h("button", { class: `button ${rings(way) ? "tinted" : "outlined"}`, "aria-pressed": String(rings(way)), onclick: flip(way) }, icon(rings(way) ? "check" : symbol), label);
    return h(
      "section",
      { key: "end", class: "card panel", "aria-label": "When all is done" },
      h("h2", { class: "section" }, "When all is done"),
      h("div", { class: "row buttons" }, choice("notify", "notifications", "Notify me"), choice("sound", "music_note", "Play a sound")),
    );
  }
}

// --- jobs in words and pictures ---

/** @param {Job} job */
function secondsLeft(job) {
  const { progress, plan } = job;
  if (job.state === "running" && progress?.eta_s !== null && progress?.eta_s !== undefined) return progress.eta_s;
  return plan.forecast_s * (1 - (progress?.fraction ?? 0));
}

/** The time left of the running job: a range as long as few renders support the forecast. @param {Job} job */
function left(job) {
  const { total_s = 0, low_s, high_s } = { ...job.plan.forecast, total_s: job.plan.forecast_s };
  const rest = job.progress?.eta_s ?? 0;
  if (!total_s || low_s === null || low_s === undefined || high_s === null || high_s === undefined) return about({ ...job.plan.forecast, total_s: rest, low_s: null });
  // What was rendered supports the forecast of the rest: the range closes as it is worked through.
  const unsure = 1 - (job.progress?.fraction ?? 0);
  const [low, high] = [low_s / total_s, high_s / total_s].map((factor) => rest * (1 + (factor - 1) * unsure));
  return about({ ...job.plan.forecast, total_s: rest, low_s: low, high_s: high });
}

/** How long a waiting job takes, or what is left of a paused one. @param {Job} job */
function timeOf(job) {
  if (job.progress?.fraction) return `${estimate(secondsLeft(job))} left`;
  return about({ ...job.plan.forecast, total_s: job.plan.forecast_s });
}

/** @param {Job} job */
function stageWords(job) {
  const { progress } = job;
  const paused = job.state === "paused" ? "Paused, progress is kept" : "";
  if (!progress || job.state === "queued") return paused || "Starting";
  const parts = [paused || STAGES[progress.stage] || progress.stage];
  if (progress.windows > 1 && progress.window) parts.push(`window ${progress.window} of ${progress.windows}`);
  if (progress.step) parts.push(`step ${progress.step} of ${progress.steps}`);
  return parts.join(" · ");
}

/** @param {Job} job @returns {[string, string][]} symbols and texts */
function chips(job) {
  const { plan, request } = job;
  if (job.kind === "export") return [["ios_share", String(request.format).toUpperCase()]];
  if (!plan.width) return [];
  return [["deployed_code", plan.model_title], ["", duration(plan.total_frames / plan.fps)], ["", `${plan.width}x${plan.height}`], ["", quality(job)], ["", `seed ${request.seed}`]];
}

/** @param {Job} job */
function quality(job) {
  const steps = job.request.draft_steps;
  return steps ? `Draft, ${steps} of ${job.plan.num_inference_steps} steps` : QUALITY[job.request.preset] ?? job.request.preset;
}

/** @param {Job} job */
function settings(job) {
  const { plan, progress, request } = job;
  if (job.kind === "export") return `${String(request.format).toUpperCase()}${request.width ? ` · ${request.width} px wide` : ""}`;
  if (!plan.width) return "";
  const seconds = duration(plan.total_frames / plan.fps);
  if (job.state === "paused" && progress?.step) return `${seconds} · paused at step ${progress.step} of ${progress.steps}, progress is kept`;
  return `${seconds} · ${plan.width}x${plan.height} · ${quality(job)} · ${plan.model_title}`;
}

/** The address of a still picture of a job, if there is one: its thumbnail, that of the video it is made from, or its first
 * frame. @param {Job} job @returns {string | null} */
function pictureOf(job) {
  const { request, plan } = job;
  if (job.state === "succeeded" && job.kind === "render") return address(`app/static/media/${job.id}/thumbnail.jpg`);
  if (job.kind === "export") return request.job ? address(`app/static/media/${request.job}/thumbnail.jpg`) : null;
  if (job.parent && /** @type {any} */ (plan).done_steps) return address(`app/static/media/${job.parent}/thumbnail.jpg`);
  const upload = request.image ?? request.video;
  return upload ? address(`app/static/uploads/${upload}/preview.jpg`, { width: 240, height: 136, fit: request.fit ?? "crop", position: request.crop_position }) : null;
}

/** @param {Job} job */
function thumbnail(job) {
  const picture = pictureOf(job);
  const symbol = job.kind === "export" ? "ios_share" : SYMBOLS[job.request.mode] ?? "movie";
  const hide = (/** @type {Event} */ event) => /** @type {HTMLElement} */ (event.currentTarget).remove();
  return h("span", { class: `thumbnail mode-${job.kind === "export" ? "export" : job.request.mode}` }, icon(symbol), picture && h("img", { key: picture, src: picture, alt: "", loading: "lazy", onerror: hide }));
}

/** @param {string} title */
const short = (title) => (title.length > 60 ? `${title.slice(0, 59).trimEnd()}…` : title);

/** @param {Job[]} jobs */
const named = (jobs) => (jobs.length === 1 ? `“${short(jobs[0].title)}”` : `${jobs.length} jobs`);

/** @param {number} value */
const gib = (value) => (value < 9.95 ? value.toFixed(1) : String(Math.round(value)));

/** Do the same with each job. @param {string} action @param {Job[]} jobs */
async function send(action, jobs) {
  if (jobs.length === 1) return action === "delete" ? ask("DELETE", `/jobs/${jobs[0].id}`) : post(`/jobs/${jobs[0].id}/${action}`);
  const { refused } = await post("/jobs/bulk", { action, ids: jobs.map((job) => job.id) });
  if (refused.length) throw new ApiError(refused[0].message, 409, "conflict");
}

/** @type {WeakMap<ShadowRoot, Queue>} */
const queues = new WeakMap();

/** @param {import("./types").Component<Data>} component */
export default function show(component) {
  const root = rootOf(component.parentElement, "queue");
  let queue = queues.get(component.parentElement);
  if (queue) queue.component = component;
  else queues.set(component.parentElement, (queue = new Queue(root, component)));
  queue.render();
  return () => {
    queues.get(component.parentElement)?.end();
    queues.delete(component.parentElement);
  };
}
