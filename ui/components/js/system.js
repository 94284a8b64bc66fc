/**
 * The System page: how busy the machine is, with half an hour of history, how the jobs of each model ended, and the checks
 * of the installation. It asks every three seconds, and not while the page is hidden.
 */

import { get, post } from "./api.js";
import { h, icon, patch } from "./dom.js";
import { live, subscribe } from "./live.js";
import { rootOf } from "./theme.js";
import { counted, duration, size } from "./words.js";

/** @typedef {import("./dom.js").Child} Child */
/** @typedef {{models: Record<string, string>}} Data titles of models by id */
/** @typedef {"cpu_percent" | "ram_used_gib" | "ram_total_gib" | "vram_used_gib" | "vram_total_gib" | "gpu_percent" | "disk_free_gib" | "disk_total_gib"} Figure */
/** @typedef {{time: number} & Record<Figure, number | null>} Sample GPU figures are null without a GPU that reports them */
/** @typedef {{model: string, succeeded: number, failed: number, cancelled: number, median_s: number | null}} Stats */
/** @typedef {{machine: {device: string, cores: number}, now: Sample, models: Stats[]}} Found what the studio says of itself */
/** @typedef {{name: string, status: "ok" | "warning" | "failed", detail: string, way_out: string}} Check */
/**
 * @typedef {object} Meter
 * @property {string} name @property {string} symbol @property {string} unit what the value is of, in words
 * @property {(sample: Sample) => number | null} read @property {number} top the end of the axis
 * @property {(value: number) => string} words a value with its unit
 */

const POLL_MS = 3000;
const HISTORY_S = 30 * 60;
const GAP_S = 30; // between samples: the line is broken, for nobody measured
const GIB = 2 ** 30;
const [WIDTH, HEIGHT] = [600, 100]; // of a chart, in its own units
const SYMBOLS = { ok: "check_circle", warning: "warning", failed: "error" };
const ORDER = ["failed", "warning", "ok"];

class System {
  /** @param {HTMLElement} root @param {import("./types").Component<Data>} component */
  constructor(root, component) {
    this.root = root;
    this.component = component;
    /** @type {Found | null} */
    this.found = null;
    /** @type {Sample[]} of the last half hour, oldest first */
    this.samples = [];
    /** @type {Check[] | null} */
    this.checks = null;
    this.checking = false;
    this.refusal = "";
    this.asking = false;
    this.gone = false; // the page was left; an answer may still be on its way
    const timer = setInterval(() => this.ask(), POLL_MS);
    const seen = () => this.ask();
    document.addEventListener("visibilitychange", seen);
    const unsubscribe = subscribe(() => this.render());
    this.end = () => {
      this.gone = true;
      clearInterval(timer);
      document.removeEventListener("visibilitychange", seen);
      unsubscribe();
    };
    this.render();
    this.ask();
  }

  /** Read the load now, and what was missed of its history. */
  async ask() {
    if (this.asking || document.hidden) return;
    this.asking = true;
    try {
      const last = this.samples.at(-1)?.time ?? 0;
      const missed = Date.now() / 1000 - last > GAP_S / 2 ? (await get("/system/history", { since: last })).samples : [];
      this.found = await get("/system");
      this.keep([...missed, this.found?.now]);
    } catch {
      // The studio is away, which the page says; the next time comes.
    }
    this.asking = false;
    this.render();
  }

  /** @param {Sample[]} more */
  keep(more) {
    const until = more[more.length - 1].time;
    const byTime = new Map([...this.samples, ...more].map((sample) => [sample.time, sample]));
    this.samples = [...byTime.values()].filter(({ time }) => time > until - HISTORY_S && time <= until).sort((one, other) => one.time - other.time);
  }

  async check() {
    if (this.checking) return;
    this.checking = true;
    this.refusal = "";
    this.render();
    try {
      this.checks = (await post("/doctor")).checks;
    } catch (error) {
      this.refusal = error instanceof Error ? error.message : String(error);
    }
    this.checking = false;
    this.render();
    this.root.querySelector(".checks")?.scrollIntoView({ block: "nearest" }); // the button is at the top of the page
  }

  render() {
    if (this.gone) return;
    patch(this.root, [
      live.connected === false && h("p", { key: "away", class: "banner", role: "status" }, icon("cloud_off"), "The studio is not running. This page reconnects by itself."),
      h("header", { key: "title", class: "head" }, h("h1", { class: "title" }, "System"), h("p", { class: "muted" }, "How busy this machine is, how its jobs ended, and whether all is well"), h("span", { class: "space" }), this.checkButton()),
      this.found && this.machine(this.found),
    ]);
  }

  /** All that is below the title, at once, so that nothing moves. @param {Found} found */
  machine(found) {
    return [
      h("div", { key: "meters", class: "meters" }, metersOf(found).map((meter) => this.meter(meter))),
      found.now.vram_total_gib === null && h("p", { key: "cpu", class: "muted line" }, icon("info"), "No NVIDIA GPU found. Videos render on the CPU."),
      h("div", { key: "columns", class: "columns" }, this.jobs(found.models), this.doctor()),
    ];
  }

  // --- load ---

  /** @param {Meter} meter */
  meter(meter) {
    const { name, symbol, read, top, words, unit } = meter;
    const now = read(this.samples[this.samples.length - 1]);
    return h(
      "section",
      { key: name, class: "card meter", "aria-label": name },
      h("h2", { class: "section row" }, icon(symbol), name),
      h("p", { class: "now" }, h("b", null, now === null ? "–" : words(now)), h("span", { class: "muted small" }, now === null ? "not reported by the driver" : unit)),
      h(
        "div",
        { class: "figure" },
        h("div", { class: "axis upright", "aria-hidden": "true" }, h("span", null, words(top)), h("span", null, "0")),
        this.chart(meter),
        h("div", { class: "axis time", "aria-hidden": "true" }, h("span", null, "30 min ago"), h("span", null, "15 min"), h("span", null, "now")),
      ),
    );
  }

  /** @param {Meter} meter */
  chart({ name, read, top, words }) {
    const until = this.samples[this.samples.length - 1].time;
    const lines = linesOf(this.samples, read).map((line) =>
      line.map(({ time, value }) => /** @type {const} */ ([WIDTH * (1 - (until - time) / HISTORY_S), HEIGHT * (1 - Math.min(value / top, 1))])),
    );
    const values = this.samples.map(read).filter((value) => value !== null);
    const passed = until - this.samples[0].time;
    const over = passed > HISTORY_S - 60 ? "half hour" : passed < 60 ? "minute" : duration(60 * Math.round(passed / 60));
    const told = values.length ? `now ${words(values[values.length - 1])}, least ${words(Math.min(...values))}, most ${words(Math.max(...values))} of ${words(top)}` : "not reported";
    const grid = [0, 0.5, 1].map((part) => h("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * part, y2: HEIGHT * part }));
    return h(
      "svg",
      { role: "img", "aria-label": `${name} over the last ${over}: ${told}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" },
      grid,
      lines.map((points, index) => [
        h("path", { key: `area ${index}`, class: "area", d: `M${points[0][0].toFixed(1)},${HEIGHT}${points.map(([x, y]) => `L${x.toFixed(1)},${y.toFixed(1)}`).join("")}L${points[points.length - 1][0].toFixed(1)},${HEIGHT}Z` }),
        h("polyline", { key: `line ${index}`, class: "curve", points: points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ") }),
      ]),
    );
  }

  // --- jobs ---

  /** @param {Stats[]} stats */
  jobs(stats) {
    const sum = (/** @type {"succeeded" | "failed" | "cancelled"} */ name) => stats.reduce((total, one) => total + one[name], 0);
    const figures = /** @type {const} */ ([["Done", "succeeded"], ["Failed", "failed"], ["Cancelled", "cancelled"]]);
    const title = (/** @type {string} */ id) => this.component.data.models[id] ?? id;
    const empty = [h("p", { key: "none", class: "muted told" }, "No job has ended yet. How long each model takes stands here once one has.")];
    const counts = () => [
      h("dl", { key: "figures", class: "figures" }, figures.map(([label, name]) => h("div", { key: name }, h("dt", null, label), h("dd", null, sum(name).toLocaleString("en"))))),
      h(
        "table",
        { key: "table" },
        h("thead", null, h("tr", null, h("th", { scope: "col" }, "Model"), figures.map(([label]) => h("th", { scope: "col" }, label)), h("th", { scope: "col" }, "Time a video"))),
        h(
          "tbody",
          null,
          stats.map((one) =>
            h("tr", { key: one.model }, h("th", { scope: "row" }, title(one.model)), figures.map(([, name]) => h("td", null, one[name].toLocaleString("en"))), h("td", null, one.median_s === null ? "–" : duration(one.median_s))),
          ),
        ),
      ),
      h("p", { key: "note", class: "muted small" }, "The time is the median of the last 50 whole videos, without pauses."),
    ];
    return h("section", { key: "jobs", class: "card panel", "aria-label": "Jobs" }, h("h2", { class: "section" }, "Jobs"), stats.length ? counts() : empty);
  }

  // --- the doctor ---

  checkButton() {
    const words = this.checking ? "Checking" : this.checks ? "Run the checks again" : "Run the checks";
    return h("button", { class: "button primary", "aria-disabled": this.checking ? "true" : null, onclick: () => this.check() }, icon("stethoscope"), words);
  }

  doctor() {
    const checks = (this.checks ?? []).toSorted((one, other) => ORDER.indexOf(one.status) - ORDER.indexOf(other.status));
    return h(
      "section",
      { key: "doctor", class: "card panel checks", "aria-label": "Checks" },
      h("h2", { class: "section" }, "Checks"),
      h("p", { class: "muted told", role: "status" }, this.told()),
      checks.length > 0 && h("ul", { role: "list" }, checks.map(finding)),
    );
  }

  /** What there is to say of the checks, which is read aloud. */
  told() {
    if (this.checking) return "Checking. This takes a few seconds.";
    if (this.refusal) return this.refusal;
    if (!this.checks) return "Python, packages, GPU, memory, disk, folders, history, video encoder and models are checked. Nothing is changed.";
    const count = (/** @type {string} */ status) => (this.checks ?? []).filter((check) => check.status === status).length;
    const [failed, warnings] = [count("failed"), count("warning")];
    if (!failed && !warnings) return `All ${this.checks.length} checks are ok.`;
    return `${counted(this.checks.length, "check")}: ${[failed && `${failed} failed`, warnings && counted(warnings, "warning"), `${count("ok")} ok`].filter(Boolean).join(", ")}.`;
  }
}

/** What is measured on this machine. @param {Found} found @returns {Meter[]} */
function metersOf({ machine, now }) {
  const percent = (/** @type {number} */ value) => `${Math.round(value)} %`;
  const gib = (/** @type {number} */ value) => `${value.toFixed(1)} GiB`;
  const bytes = (/** @type {number} */ value) => size(GIB * value);
  const [vram, ram, disk] = [now.vram_total_gib, now.ram_total_gib ?? 1, now.disk_total_gib ?? 1];
  const gpu = /** @type {Meter[]} */ (
    vram === null
      ? []
      : [
          { name: "GPU", symbol: "developer_board", unit: machine.device, read: (sample) => sample.gpu_percent, top: 100, words: percent },
          { name: "VRAM", symbol: "memory_alt", unit: `of ${gib(vram)} in use`, read: (sample) => sample.vram_used_gib, top: vram, words: gib },
        ]
  );
  return [
    ...gpu,
    { name: "CPU", symbol: "memory", unit: counted(machine.cores, "core"), read: (sample) => sample.cpu_percent, top: 100, words: percent },
    { name: "Memory", symbol: "memory_alt", unit: `of ${gib(ram)} in use`, read: (sample) => sample.ram_used_gib, top: ram, words: gib },
    { name: "Disk", symbol: "hard_drive", unit: `of ${bytes(disk)} in use, ${bytes(now.disk_free_gib ?? 0)} free`, read: (sample) => (sample.disk_total_gib ?? 0) - (sample.disk_free_gib ?? 0), top: disk, words: bytes },
  ];
}

/** The samples that follow one another without a gap. @param {Sample[]} samples @param {Meter["read"]} read */
function linesOf(samples, read) {
  /** @type {{time: number, value: number}[][]} */
  const lines = [];
  let last = -Infinity;
  for (const sample of samples) {
    const value = read(sample);
    if (value === null) continue;
    if (sample.time - last > GAP_S) lines.push([]);
    lines[lines.length - 1].push({ time: sample.time, value });
    last = sample.time;
  }
  return lines;
}

/** @param {Check} check */
function finding({ name, status, detail, way_out }) {
  return h(
    "li",
    { key: name, class: `finding ${status}` },
    icon(SYMBOLS[status], status),
    h("div", null, h("b", null, name), h("p", null, code(detail)), way_out && h("p", { class: "way-out" }, h("b", null, "What to do: "), code(way_out))),
  );
}

/** Text in which backticks enclose a command. @param {string} text @returns {Child[]} */
const code = (text) => text.split("`").map((part, index) => (index % 2 ? h("code", null, part) : part));

/** @type {WeakMap<ShadowRoot, System>} */
const systems = new WeakMap();

/** @param {import("./types").Component<Data>} component */
export default function show(component) {
  const root = rootOf(component.parentElement, "system");
  let system = systems.get(component.parentElement);
  if (system) system.component = component;
  else systems.set(component.parentElement, (system = new System(root, component)));
  system.render();
  return () => {
    systems.get(component.parentElement)?.end();
    systems.delete(component.parentElement);
  };
}
