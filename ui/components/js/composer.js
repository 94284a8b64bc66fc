/**
 * The composer of the Create page: the form of a request, with its plan while one types and the button that starts it. The
 * form is the draft, see draft.js; nothing goes through Streamlit.
 */

import { ApiError, ask, get, inputPreview, post, upload } from "./api.js";
import { FRESH, change, current, load, onForm, replace } from "./draft.js";
import { h, icon, patch } from "./dom.js";
import { live, subscribe } from "./live.js";
import { OWN, Presets } from "./presets.js";
import { DEFAULT_FRAMES, LEAST_FRAMES, MODES, longest, missing, optionsOf, requestOf, scenesOf, storyFrames, tabOf } from "./request.js";
import { rootOf } from "./theme.js";
import { QUALITY, about, clock, counted, duration, estimate } from "./words.js";

/** @typedef {import("./request.js").Model} Model */
/** @typedef {import("./dom.js").Child} Child */
/** @typedef {import("./types").Plan} Plan */
/** @typedef {{title: string, help: string, least: number | null, most: number | null, whole: boolean}} Setting */
/** @typedef {{name: string, kind: "image" | "video", label: string}} Slot */
/** @typedef {{name: string, fits: Record<string, string | null>}} Lora a reason for each model that it does not fit */
/**
 * @typedef {object} Data
 * @property {Model[]} models @property {string} automatic the id of the model that Automatic takes
 * @property {Record<string, Setting>} settings @property {Slot[]} inputs @property {Lora[]} loras
 * @property {number} prompt_length @property {Record<string, string>} formats the files that an input takes
 */

const PLAN_AFTER_MS = 250;
const PRESS_AGAIN_MS = 3000;
const MOST_VARIATIONS = 12;
const DRAFT_STEPS = 8;
const HISTORY = 50;
const MIDDLE = 0.5; // of an input that is cropped
const USUAL_STRENGTH = { least: -1, most: 2 }; // of a LoRA
const MOST_STRENGTH = 4;

const SHAPES = [
  { id: "landscape", label: "16:9" },
  { id: "portrait", label: "9:16" },
  { id: "square", label: "1:1" },
];
const QUALITIES = [
  { id: "turbo", about: "computes a third of the steps" },
  { id: "balanced", about: "computes less than half of the steps; nearly the same video" },
  { id: "exact", about: "computes every step" },
];
/** What the camera does, as the prompts of the models' authors say it. */
const CAMERA = {
  "Push in": "slow camera push in",
  "Pull out": "slow camera pull out",
  "Pan left": "the camera pans left",
  "Pan right": "the camera pans right",
  "Tilt up": "the camera tilts up",
  Orbit: "the camera orbits the subject",
  "Tracking shot": "tracking shot",
  Still: "static camera",
};
const HELP = /** @type {Record<string, string>} */ ({
  num_inference_steps: "More steps give finer detail and take longer.",
  guidance_scale: "Higher follows the prompt more closely, lower is freer.",
  flow_shift: "Higher gives more motion and change, lower more detail.",
});

class Composer {
  /** @param {HTMLElement} root @param {Data} data */
  constructor(root, data) {
    this.root = root;
    this.data = data;
    /** @type {Plan | null} */
    this.plan = null;
    /** @type {ApiError | null} why there is no plan */
    this.refused = null;
    /** @type {Record<string, number>} seconds of each quality */
    this.times = {};
    /** @type {Record<string, {name: string, part: number} | {error: string}>} what goes on in a slot */
    this.slots = {};
    /** @type {Set<Promise<void>>} files on their way */
    this.sending = new Set();
    /** @type {Record<string, any>} uploads by their ids */
    this.uploads = {};
    /** @type {"camera" | "history" | null} */
    this.menu = null;
    /** @type {string[]} */
    this.history = [];
    this.presets = new Presets({
      changed: () => this.render(),
      settings: () => Object.fromEntries(Object.entries(current()).filter(([name]) => !OWN.includes(name))),
      apply: (settings) => this.apply(settings),
      check: (settings) => this.check(settings),
    });
    /** @type {{mine: string, prompt: string, by: string, variation: number} | null} */
    this.expanded = null;
    this.expanding = false;
    this.tried = false; // Generate was pressed with something missing
    this.answer = ""; // to the last press
    this.pressed = { body: "", at: 0, key: "" };
    this.planning = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    const ends = [onForm((_, other) => this.changed(other)), subscribe(() => this.render()), this.listen()];
    this.end = () => {
      clearTimeout(this.timer);
      ends.forEach((end) => end());
    };
    this.render();
    load().then(() => this.first());
  }

  async first() {
    this.changed(true);
    await this.presets.load().catch(() => {});
    const { usual } = this.presets;
    if (usual && Object.keys(current()).length === Object.keys(FRESH).length && !current().prompt) change(usual.form);
    this.render();
  }

  /** The model that would render the form. @returns {Model} */
  get model() {
    const chosen = this.data.models.find((model) => model.id === current().model);
    const planned = this.data.models.find((model) => model.id === this.plan?.model);
    return /** @type {Model} */ (chosen ?? planned ?? this.data.models.find((model) => model.id === this.data.automatic) ?? this.data.models[0]);
  }

  /** The form has changed, here or elsewhere. @param {boolean} _other */
  changed(_other) {
    this.answer = "";
    this.knowUploads();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.replan(), PLAN_AFTER_MS);
    this.render();
  }

  async knowUploads() {
    for (const { name } of this.data.inputs) {
      const id = current()[name];
      if (!id || this.uploads[id]) continue;
      this.uploads[id] = {};
      const found = await get(`/uploads/${id}`).catch((error) => error);
      if (found instanceof ApiError && found.status === 404) change({ [name]: null });
      else if (!(found instanceof Error)) this.uploads[id] = found;
      this.render();
    }
  }

  /** Ask what the form would become: for its own quality, and the time of the others. */
  async replan() {
    const mine = ++this.planning;
    if (missing(current())) {
      this.plan = this.refused = null;
      this.render();
      return;
    }
    const request = this.request();
    try {
      const plan = await post("/plan", request);
      if (mine !== this.planning) return;
      [this.plan, this.refused] = [plan, null];
    } catch (error) {
      if (mine !== this.planning) return;
      [this.plan, this.refused] = [null, error instanceof ApiError ? error : null];
    }
    this.render();
    if (!this.plan || !this.model.denoises) return;
    const times = await Promise.all(
      QUALITIES.map(({ id }) =>
        id === (current().preset ?? "exact") ? this.plan?.forecast_s : post("/plan", { ...request, preset: id }).then((plan) => plan.forecast_s, () => undefined),
      ),
    );
    if (mine !== this.planning) return;
    this.times = Object.fromEntries(QUALITIES.map(({ id }, index) => [id, times[index]]));
    this.render();
  }

  request() {
    const request = requestOf(current(), this.model);
    if (current().drafts) request.draft_steps = current().draft_steps ?? DRAFT_STEPS;
    return request;
  }

  // --- files ---

  /** Whatever is dropped or pasted on the page is for the form; the browser never leaves the page. */
  listen() {
    const over = (/** @type {DragEvent} */ event) => {
      event.preventDefault();
      this.root.classList.toggle("dropping", [...(event.dataTransfer?.types ?? [])].includes("Files"));
    };
    const left = (/** @type {DragEvent} */ event) => event.relatedTarget || this.root.classList.remove("dropping");
    const drop = (/** @type {DragEvent} */ event) => {
      event.preventDefault();
      this.root.classList.remove("dropping");
      const file = event.dataTransfer?.files[0];
      if (file && this.presets.dialog?.open) this.presets.import(file);
      else if (file) this.receive(file);
    };
    const paste = (/** @type {ClipboardEvent} */ event) => {
      const file = event.clipboardData?.files[0];
      if (!file) return;
      event.preventDefault();
      this.receive(file);
    };
    const draw = () => this.render();
    document.addEventListener("dragover", over);
    document.addEventListener("dragleave", left);
    document.addEventListener("drop", drop);
    document.addEventListener("paste", paste);
    addEventListener("studio:form", draw);
    return () => {
      document.removeEventListener("dragover", over);
      document.removeEventListener("dragleave", left);
      document.removeEventListener("drop", drop);
      document.removeEventListener("paste", paste);
      removeEventListener("studio:form", draw);
    };
  }

  /** A file chooses its slot, and so the mode. @param {File} file @param {string} [field] the slot that it was given to */
  receive(file, field) {
    const sent = this.send(file, field).finally(() => this.sending.delete(sent));
    this.sending.add(sent);
  }

  /** @param {File} file @param {string} [field] */
  async send(file, field) {
    const looks = file.type.startsWith("video/") || /\.(mp4|mov|avi|mkv|webm|m4v|m?2?ts|mpe?g|dv)$/i.test(file.name) ? "video" : "image";
    const slot = field ?? (looks === "video" ? "video" : current().mode === "image_to_video" && current().image && !current().end_image ? "end_image" : "image");
    const wanted = this.data.inputs.find((input) => input.name === slot);
    this.slots = { ...this.slots, [slot]: { name: file.name, part: 0 } };
    this.render();
    try {
      const sent = await upload(file, file.name, (part) => {
        this.slots = { ...this.slots, [slot]: { name: file.name, part } };
        this.render();
      });
      if (wanted && sent.kind !== wanted.kind && field) {
        const noun = sent.kind === "video" ? "a video" : "a picture";
        throw new ApiError(`${file.name} is ${noun}; drop ${this.data.formats[wanted.kind]}.`, 422, "kind");
      }
      this.uploads[sent.id] = sent;
      const { [slot]: _done, ...rest } = this.slots;
      this.slots = rest;
      this.put(sent, field);
    } catch (error) {
      this.slots = { ...this.slots, [slot]: { error: error instanceof Error ? error.message : String(error) } };
    }
    this.render();
  }

  /** Take an upload into the form. @param {{id: string, kind: string}} sent @param {string} [field] */
  put(sent, field) {
    const form = current();
    if (sent.kind === "video") change({ video: sent.id, mode: "video_extension", story: null, parent: null });
    else if (field === "end_image") change({ end_image: sent.id, mode: form.mode === "text_to_video" ? "image_to_video" : form.mode });
    else if (!field && form.mode === "image_to_video" && form.image) change({ end_image: sent.id });
    else change({ image: sent.id, mode: "image_to_video", story: null });
  }

  // --- the press ---

  async generate() {
    if (this.sending.size) {
      this.answer = "Starts once the file is sent.";
      this.render();
      await Promise.all(this.sending);
      this.answer = "";
    }
    const lacks = missing(current());
    if (lacks) {
      this.tried = true;
      this.render();
      /** @type {HTMLElement | null} */ (this.root.querySelector(lacks.field === "prompt" ? "textarea" : `.slot[data-name=${lacks.field}] button`))?.focus();
      return;
    }
    this.tried = false;
    const form = current();
    const many = (form.variations ?? 1) > 1;
    const request = this.request();
    const { draft_steps, ...whole } = request;
    const [path, body] = many
      ? ["/variations", { request: whole, count: form.variations, ...(draft_steps ? { draft_steps } : {}) }]
      : ["/jobs", request];
    const text = JSON.stringify([body, form.replaces]);
    // The second press of a double click, or of Ctrl+Enter held down, is the same job.
    if (text === this.pressed.body && Date.now() - this.pressed.at < PRESS_AGAIN_MS) return;
    this.pressed = { body: text, at: Date.now(), key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` };
    try {
      const before = live.order.filter((id) => live.jobs.get(id)?.state !== "paused").length;
      const job = await this.submit(path, body, form);
      this.answer = this.startWords(before, job);
      dispatchEvent(new CustomEvent("studio:submitted", { detail: { batch: many ? job.batch : null } }));
    } catch (error) {
      this.pressed.body = "";
      this.refused = error instanceof ApiError ? error : new ApiError(String(error), 0, "");
    }
    this.render();
  }

  /** @param {string} path @param {any} body @param {import("./draft.js").Form} form */
  async submit(path, body, form) {
    if (form.replaces && path === "/jobs") {
      const replaced = form.replaces;
      change({ replaces: null });
      const before = await get(`/jobs/${replaced}`).catch(() => null);
      if (before) {
        const nothing = Object.fromEntries(Object.keys(before.request).filter((name) => !["kind", "skyreels"].includes(name)).map((name) => [name, null]));
        const options = Object.fromEntries(Object.keys(before.request.skyreels ?? {}).map((name) => [name, null]));
        const job = await post(`/jobs/${replaced}/edit`, { ...nothing, ...body, skyreels: { ...options, ...body.skyreels } });
        await ask("DELETE", `/jobs/${replaced}`).catch(() => {});
        return job;
      }
    }
    const send = (/** @type {Record<string, any>} */ query) => ask("POST", path, { body, query, headers: { "Idempotency-Key": this.pressed.key } });
    if (!form.parent || path !== "/jobs") return send({});
    return send({ parent: form.parent }).catch((error) => {
      if (error.status !== 404) throw error; // the job that it was made from was removed for good
      change({ parent: null });
      return send({});
    });
  }

  /** @param {number} before @param {any} _job */
  startWords(before, _job) {
    if (live.paused) return "Queued; the queue is paused, so it does not start yet.";
    if (!before) return "Started.";
    const wait = live.order.reduce((sum, id) => {
      const job = live.jobs.get(id);
      return job && job.state !== "paused" ? sum + (job.progress?.eta_s ?? job.plan.forecast.total_s) : sum;
    }, 0);
    return `Queued as number ${before + 1}, starts about ${clock(Date.now() / 1000 + wait)}.`;
  }

  // --- how it looks ---

  render() {
    const tab = tabOf(current());
    patch(this.root, [
      h(
        "div",
        { key: "fields", class: "fields" },
        this.modes(tab),
        this.promptBox(tab),
        this.examples(),
        this.slotRow(tab),
        this.shapeAndSize(),
        this.length(tab),
        this.model.denoises && this.quality(),
        this.seedAndVariations(),
        this.more(),
      ),
      this.foot(),
      this.presets.view(),
    ]);
    fitText(this.root.querySelector("textarea"));
    this.alignMarks();
  }

  /** @param {string} tab */
  modes(tab) {
    const choose = (/** @type {typeof MODES[number]} */ row) => change({ mode: row.mode, story: row.id === "story" || null });
    return this.segments("Mode", MODES.map(({ id, label, symbol }) => ({ id, label, symbol })), tab, (id) => choose(/** @type {any} */ (MODES.find((row) => row.id === id))), "modes");
  }

  /** A group of radio buttons. @param {string} label @param {{id: string, label: string, symbol?: string, more?: Child,
   * title?: string}[]} options @param {string} chosen @param {(id: string) => void} choose @param {string} [name] */
  segments(label, options, chosen, choose, name = "") {
    const move = (/** @type {KeyboardEvent} */ event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const at = options.findIndex((option) => option.id === chosen);
      const next = options[(at + step + options.length) % options.length];
      if (!next) return;
      choose(next.id);
      const group = /** @type {HTMLElement} */ (event.currentTarget);
      /** @type {HTMLElement | null} */ (group.querySelector("[aria-checked=true]"))?.focus();
    };
    return h(
      "div",
      { key: label, class: `segments ${name}`, role: "radiogroup", "aria-label": label, onkeydown: move },
      ...options.map((option) =>
        h(
          "button",
          {
            key: option.id,
            role: "radio",
            class: option.id === chosen ? "on" : "",
            "aria-checked": String(option.id === chosen),
            tabindex: option.id === chosen ? 0 : -1,
            title: option.title,
            onclick: () => choose(option.id),
          },
          option.symbol && icon(option.symbol),
          h("span", null, option.label),
          option.more && h("small", null, option.more),
        ),
      ),
    );
  }

  /** @param {string} tab */
  promptBox(tab) {
    const form = current();
    const story = tab === "story";
    const hint = { text: "What should the video show?", story: "One line for each scene" }[tab] ?? "What should happen? (optional)";
    const lacks = this.tried && missing(form)?.field === "prompt";
    const length = [...String(form.prompt)].length;
    const unknown = this.plan?.notes.find((note) => note.startsWith(`${this.plan?.model_title} does not know: `));
    const field = h("textarea", {
      key: "prompt",
      class: "prompt-field",
      "aria-label": "Prompt",
      placeholder: hint,
      rows: 4,
      spellcheck: "true",
      value: form.prompt,
      "aria-invalid": lacks ? "true" : undefined,
      "aria-describedby": unknown ? "unknown" : undefined,
      oninput: (/** @type {InputEvent} */ event) => change({ prompt: /** @type {HTMLTextAreaElement} */ (event.target).value }),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.promptKey(event),
      onscroll: () => this.alignMarks(),
    });
    return h(
      "div",
      { key: "prompt-box", class: "prompt-box" },
      h("div", { key: "typed", class: "typed" }, unknown && h("div", { key: "marks", class: "prompt-field marks", "aria-hidden": "true" }, ...marked(String(form.prompt), this.plan?.unknown_words ?? [])), field),
      h("p", { key: "unknown", id: "unknown", class: "small caution-text", role: "status", hidden: !unknown }, unknown),
      h(
        "div",
        { key: "tools", class: "row tools" },
        this.tool("magic_button", this.expanded?.prompt === form.prompt ? "Try another" : this.expanding ? "Expanding" : "Expand", () => this.expand(), {
          disabled: this.expanding || !String(form.prompt).trim(),
          title: "Fills in what the prompt leaves open: motion, place, light, camera, style. You can edit it.",
        }),
        this.expanded?.prompt === form.prompt && this.tool("undo", "Undo", () => change({ prompt: this.expanded?.mine })),
        h("div", { key: "camera", class: "more" }, this.tool("videocam", "Camera", () => this.open("camera"), { "aria-expanded": String(this.menu === "camera") }), this.menu === "camera" && this.cameraMenu()),
        h("div", { key: "history", class: "more" }, this.tool("history", "", () => this.open("history"), { "aria-label": "Earlier prompts", title: "Earlier prompts", "aria-expanded": String(this.menu === "history") }), this.menu === "history" && this.historyMenu()),
        h("span", { class: "space" }),
        h("span", { class: `small ${length > this.data.prompt_length ? "bad-text" : "muted"}` }, `${length.toLocaleString("en")} / ${this.data.prompt_length.toLocaleString("en")}`),
      ),
      lacks && h("p", { key: "lacks", class: "fault", role: "alert" }, "Write a prompt first."),
      story && h("p", { key: "scenes", class: "small muted" }, this.storyWords()),
      this.expanded?.prompt === form.prompt &&
        h("p", { key: "by", class: "small muted" }, this.expanded?.by === "rules" ? "Expanded without a language model." : `Expanded by ${this.expanded?.by}.`),
    );
  }

  /** The underlines lie under the text, also where it is scrolled. */
  alignMarks() {
    const marks = /** @type {HTMLElement | null} */ (this.root.querySelector(".marks"));
    const field = this.root.querySelector(".typed textarea");
    if (!marks || !field) return;
    marks.style.width = `${field.clientWidth}px`; // without the scroll bar
    marks.scrollTop = field.scrollTop;
  }

  storyWords() {
    const scenes = Math.max(1, scenesOf(current()).length);
    if (!this.model.many_windows && scenes > 1) return `${this.model.title} makes one scene; pick a SkyReels DF model for a story.`;
    const { base_num_frames: window, overlap_history: overlap, fps } = this.model;
    return `${counted(scenes, "scene")}, ${duration(storyFrames(current(), this.model) / fps)}. Each line you add makes it about ${Math.round((window - overlap) / fps)} s longer.`;
  }

  /** @param {string} symbol @param {string} label @param {() => void} act @param {Record<string, any>} [more] */
  tool(symbol, label, act, more = {}) {
    return h("button", { key: symbol, class: "button tool", onclick: act, ...more }, icon(symbol), label);
  }

  /** @param {KeyboardEvent} event */
  promptKey(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.generate();
    } else if (event.key === "ArrowUp" && !current().prompt) {
      event.preventDefault();
      this.open("history");
    }
  }

  /** @param {"camera" | "history"} menu */
  async open(menu) {
    this.menu = this.menu === menu ? null : menu;
    this.render();
    if (this.menu === "history") {
      this.history = await get("/prompts", { limit: HISTORY }).then(({ prompts }) => prompts, () => []);
      this.render();
    }
    if (this.menu) /** @type {HTMLElement | null} */ (this.root.querySelector(".menu button"))?.focus();
  }

  /** @param {VNodes} items @param {string} label @param {string} [name] */
  menuOf(items, label, name = "") {
    const keys = (/** @type {KeyboardEvent} */ event) => {
      const buttons = [.../** @type {NodeListOf<HTMLElement>} */ (this.root.querySelectorAll(".menu button"))];
      const at = buttons.indexOf(/** @type {HTMLElement} */ (event.composedPath()[0]));
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (event.key === "Escape") {
        this.menu = null;
        this.render();
        /** @type {HTMLElement | null} */ (this.root.querySelector("textarea"))?.focus();
      } else if (to === undefined) return;
      else buttons[(to + buttons.length) % buttons.length]?.focus();
      event.preventDefault();
      event.stopPropagation();
    };
    const left = (/** @type {FocusEvent} */ event) => {
      const menu = /** @type {HTMLElement} */ (event.currentTarget);
      if (menu.contains(/** @type {Node} */ (event.relatedTarget)) || menu.parentElement?.contains(/** @type {Node} */ (event.relatedTarget))) return;
      this.menu = null;
      this.render();
    };
    return h("div", { class: `menu ${name}`, role: "menu", "aria-label": label, onkeydown: keys, onfocusout: left }, ...items);
  }

  cameraMenu() {
    const add = (/** @type {string} */ words) => () => {
      const prompt = String(current().prompt).trim().replace(/[,.]$/, "");
      this.menu = null;
      change({ prompt: prompt ? `${prompt}, ${words}` : capital(words) });
    };
    return this.menuOf(
      Object.entries(CAMERA).map(([label, words]) => h("button", { class: "button", role: "menuitem", onclick: add(words) }, label)),
      "Camera",
    );
  }

  historyMenu() {
    const use = (/** @type {string} */ prompt) => () => {
      this.menu = null;
      change({ prompt });
      /** @type {HTMLElement | null} */ (this.root.querySelector("textarea"))?.focus();
    };
    const items = this.history.map((prompt) => h("button", { class: "button clip", role: "menuitem", title: prompt, onclick: use(prompt) }, prompt));
    return this.menuOf(items.length ? items : [h("p", { class: "small muted none" }, "Prompts of your videos appear here.")], "Earlier prompts", "history");
  }

  async expand() {
    const form = current();
    const again = this.expanded?.prompt === form.prompt ? this.expanded : null;
    const [mine, variation] = again ? [again.mine, again.variation + 1] : [form.prompt, 0];
    this.expanding = true;
    this.render();
    const wording = { prompt: mine, model: this.model.id, variation };
    const found = await post("/prompts/expand", wording).catch(() => post("/prompts/expand", { ...wording, by_rules: true }).catch((error) => error));
    this.expanding = false;
    if (found instanceof Error) this.answer = found.message;
    else if (found.prompt === mine) this.answer = "Your prompt already covers everything.";
    else {
      this.expanded = { mine, prompt: found.prompt, by: found.by, variation };
      change({ prompt: found.prompt });
    }
    this.render();
  }

  examples() {
    if (String(current().prompt).trim()) return null;
    return h(
      "div",
      { key: "examples", class: "examples", role: "group", "aria-label": "Example prompts" },
      ...this.model.prompts.slice(0, 3).map((prompt) => h("button", { class: "example", onclick: () => change({ prompt }) }, prompt)),
    );
  }

  // --- inputs ---

  /** @param {string} tab */
  slotRow(tab) {
    const used = MODES.find((row) => row.id === tab)?.inputs ?? [];
    const shown = tab === "extend" ? ["video", "end_image"] : ["image", "end_image"];
    if (tab === "story") return null;
    const slots = this.data.inputs.filter((input) => shown.includes(input.name)).sort((one, other) => shown.indexOf(one.name) - shown.indexOf(other.name));
    return h(
      "div",
      { key: "slots", class: "slots" },
      ...slots.map((slot) => this.slot(slot, /** @type {string[]} */ (used).includes(slot.name))),
      ...slots.map((slot) => {
        const state = this.slots[slot.name];
        return state && "error" in state && h("p", { key: `fault-${slot.name}`, class: "fault", role: "alert" }, state.error);
      }),
    );
  }

  /** @param {Slot} slot @param {boolean} used by the mode */
  slot(slot, used) {
    const form = current();
    const id = used ? form[slot.name] : null;
    const state = this.slots[slot.name];
    const sending = state && "part" in state ? state : null;
    const known = this.uploads[id] ?? {};
    const cannot = slot.name === "end_image" && !this.model.end_image ? `${this.model.title} takes no last frame` : "";
    const lacks = this.tried && missing(form)?.field === slot.name;
    const choose = (/** @type {Event} */ event) => {
      const input = /** @type {HTMLInputElement} */ (event.target);
      const file = input.files?.[0];
      input.value = "";
      if (file) this.receive(file, slot.name);
    };
    const preview = id && inputPreview(id, this.frame(), form);
    return h(
      "div",
      { key: slot.name, class: `slot ${id ? "full" : ""} ${cannot && !id ? "dim" : ""} ${lacks ? "lacks" : ""}`, "data-name": slot.name },
      h(
        "label",
        { class: "face", title: cannot || slot.label },
        h("input", { type: "file", class: "spoken", "aria-label": slot.label, accept: `${slot.kind}/*`, onchange: choose }),
        preview ? h("img", { key: "shown", src: preview, alt: `${slot.label}, as the model will see it` }) : icon({ image: "first_page", end_image: "last_page", video: "movie" }[slot.name] ?? "add"),
        sending && h("progress", { key: "sent", max: 1, value: sending.part, "aria-label": `Sending ${sending.name}` }),
      ),
      h("span", { class: "small name" }, slot.label),
      id && h("button", { key: "remove", class: "remove", "aria-label": `Remove ${slot.label.toLowerCase()}`, onclick: () => change({ [slot.name]: null }) }, icon("close")),
      id && known.width && h("span", { key: "what", class: "small muted what" }, known.kind === "video" ? `${known.width}x${known.height}, ${duration(known.frames / known.fps)}, sound is dropped` : `${known.width}x${known.height}`),
      id && known.notes?.length > 0 && h("span", { key: "notes", class: "small muted what" }, known.notes.join(" ")),
    );
  }

  /** The size that the form asks for, which the plan may know better. */
  frame() {
    const { orientation = "landscape", resolution } = current();
    const [long, short] = resolution === "720p" ? [1280, 720] : [960, 540];
    if (this.plan) return this.plan;
    if (orientation === "square") return { width: short, height: short };
    return orientation === "portrait" ? { width: short, height: long } : { width: long, height: short };
  }

  shapeAndSize() {
    const form = current();
    const { width, height } = this.frame();
    const shape = form.orientation ?? (10 * Math.max(width, height) <= 11 * Math.min(width, height) ? "square" : width > height ? "landscape" : "portrait");
    const sizes = [...new Set(["540p", "720p", form.resolution])].map((id) => ({ id, label: id }));
    const needs = tabOf(form) === "image" || tabOf(form) === "extend";
    return h(
      "div",
      { key: "shape", class: "pair" },
      h("div", null, h("span", { class: "label" }, "Shape"), this.segments("Shape", SHAPES.map((one) => ({ ...one, symbol: `crop_${{ landscape: "16_9", portrait: "portrait", square: "square" }[one.id]}` })), shape, (orientation) => change({ orientation }))),
      h("div", { class: sizes.length > 2 ? "whole" : "" }, h("span", { class: "label" }, "Size"), this.segments("Size", sizes, form.resolution, (resolution) => change({ resolution }))),
      needs && h("div", { key: "fit", class: "whole" }, this.segments("If the input has a different shape", [{ id: "crop", label: "Fill the frame" }, { id: "letterbox", label: "Show all of it, with bars" }], form.fit, (fit) => change({ fit }))),
      needs && form.fit === "crop" && (form.image || form.video) && this.keptPart(form.crop_position ?? MIDDLE),
    );
  }

  /** Which part of an input of another shape is kept; its slot shows it. @param {number} position 0 to 1 */
  keptPart(position) {
    const words = `${Math.round(100 * position)} percent from the left or upper edge`;
    const put = (/** @type {Event} */ event) => {
      const value = Number(/** @type {HTMLInputElement} */ (event.target).value);
      change({ crop_position: value === MIDDLE ? null : value });
    };
    return h(
      "label",
      { key: "kept", class: "whole kept" },
      h("span", { class: "label" }, "Part that is kept"),
      h("input", { type: "range", min: 0, max: 1, step: 0.05, value: String(position), "aria-label": "Part that is kept", "aria-valuetext": words, style: `--part: ${position}`, onchange: put }),
    );
  }

  /** @param {string} tab */
  length(tab) {
    if (tab === "story") return null;
    const form = current();
    const frames = form.num_frames ?? DEFAULT_FRAMES;
    const fps = form.fps ?? this.plan?.fps ?? this.model.fps;
    const most = Math.max(longest(this.model), frames);
    const words = `${(frames / fps).toFixed(1)} seconds, ${frames} frames`;
    const put = (/** @type {string} */ value) => change({ num_frames: Math.round(Number(value)) || null });
    return h(
      "div",
      { key: "length" },
      h(
        "div",
        { class: "row spread" },
        h("label", { class: "label", for: "length" }, "Length"),
        h("span", null, h("b", null, `${(frames / fps).toFixed(1)} s`), h("span", { class: "muted" }, ` · ${frames} ${tab === "extend" ? "new " : ""}frames at ${fps} fps`)),
      ),
      h("input", {
        id: "length",
        type: "range",
        "aria-label": "Length",
        "aria-valuetext": words,
        min: LEAST_FRAMES,
        max: most,
        value: String(frames),
        style: `--part: ${(frames - LEAST_FRAMES) / (most - LEAST_FRAMES)}`,
        oninput: (/** @type {Event} */ event) => put(/** @type {HTMLInputElement} */ (event.target).value),
      }),
    );
  }

  quality() {
    const options = QUALITIES.map(({ id, about: title }) => ({ id, label: QUALITY[id] ?? id, title, more: this.times[id] ? estimate(this.times[id]) : "…" }));
    return h("div", { key: "quality" }, h("span", { class: "label" }, "Quality"), this.segments("Quality", options, current().preset ?? "exact", (preset) => change({ preset }), "tall"));
  }

  seedAndVariations() {
    const { seed, variations = 1, drafts } = current();
    const step = (/** @type {number} */ by) => () => change({ variations: Math.min(MOST_VARIATIONS, Math.max(1, variations + by)) });
    return h(
      "div",
      { key: "seed", class: "pair even" },
      h(
        "div",
        null,
        h("label", { class: "label", for: "seed" }, "Seed"),
        h(
          "div",
          { class: "field row" },
          this.number("seed", "random"),
          h("button", { class: "button round", "aria-label": "Random seed", title: "Pick a random seed and keep it", onclick: () => change({ seed: Math.floor(Math.random() * 2 ** 32) }) }, icon("casino")),
          seed !== undefined && h("button", { key: "clear", class: "button round", "aria-label": "A new seed each time", title: "A new seed each time", onclick: () => change({ seed: null }) }, icon("close")),
        ),
      ),
      h(
        "div",
        null,
        h("span", { class: "label", id: "variations" }, "Variations"),
        h(
          "div",
          { class: "field row spread", role: "group", "aria-labelledby": "variations" },
          h("button", { class: "button round", "aria-label": "Fewer variations", disabled: variations <= 1, onclick: step(-1) }, icon("remove")),
          h("output", { "aria-live": "polite" }, `×${variations}`),
          h("button", { class: "button round", "aria-label": "More variations", disabled: variations >= MOST_VARIATIONS, onclick: step(1) }, icon("add")),
        ),
      ),
      (variations > 1 || drafts) &&
        h(
          "label",
          { key: "drafts", class: "whole row check" },
          h("input", { type: "checkbox", checked: Boolean(drafts), onchange: (/** @type {Event} */ event) => change({ drafts: /** @type {HTMLInputElement} */ (event.target).checked || null }) }),
          "Drafts first: stop each after",
          h("input", {
            type: "number",
            class: "few",
            "aria-label": "Steps of a draft",
            min: 1,
            max: 49,
            value: String(current().draft_steps ?? DRAFT_STEPS),
            oninput: (/** @type {Event} */ event) => change({ draft_steps: Number(/** @type {HTMLInputElement} */ (event.target).value) || null }),
          }),
          "steps, finish the best",
        ),
    );
  }

  /** A number that may stay empty: then the model's default applies, which is its placeholder.
   * @param {string} name @param {string | number} usual @param {boolean} [option] one of SkyReels */
  number(name, usual, option = false) {
    const setting = this.data.settings[name];
    const value = option ? current().skyreels?.[name] : current()[name];
    const put = (/** @type {Event} */ event) => {
      const field = /** @type {HTMLInputElement} */ (event.target);
      const given = field.value === "" ? null : Number(field.value);
      if (option) change({ skyreels: { ...current().skyreels, [name]: given } });
      else change({ [name]: given });
    };
    return h("input", {
      key: name,
      id: name,
      type: "number",
      "aria-label": setting?.title ?? name,
      title: setting?.help,
      placeholder: String(usual),
      step: setting?.whole ? 1 : "any",
      value: value === undefined || value === null ? "" : String(value),
      oninput: put,
    });
  }

  // --- more settings ---

  more() {
    const model = this.model;
    const form = current();
    const field = (/** @type {string} */ name, /** @type {string | number} */ usual, option = false) =>
      h(
        "div",
        { key: name },
        h("label", { class: "label", for: name, title: this.data.settings[name]?.help }, this.data.settings[name]?.title ?? name),
        h("div", { class: "field" }, this.number(name, usual, option)),
        HELP[name] && h("span", { class: "small muted" }, HELP[name]),
      );
    const options = optionsOf(model);
    const numbers = /** @type {[string, number][]} */ ([
      ["flow_shift", model.flow_shift],
      ["addnoise_condition", 0],
      ["base_num_frames", model.base_num_frames],
      ["overlap_history", model.overlap_history],
      ["ar_step", 0],
      ["causal_block_size", 5],
    ]).filter(([name]) => options.includes(name));
    return h(
      "details",
      { key: "more", class: "settings" },
      h("summary", null, "More settings ", h("span", { class: "small muted" }, model.denoises ? "steps, guidance, avoid, LoRA" : "rate, presets")),
      h("div", null, h("label", { class: "label", for: "avoid" }, "Avoid"), h("textarea", {
        id: "avoid",
        class: "field area-field",
        rows: 2,
        "aria-label": this.data.settings.negative_prompt?.title ?? "Negative prompt",
        placeholder: "What should not be in the video",
        value: form.negative_prompt ?? "",
        oninput: (/** @type {Event} */ event) => change({ negative_prompt: /** @type {HTMLTextAreaElement} */ (event.target).value || null }),
      })),
      h("div", { class: "pair even" }, field("num_inference_steps", model.num_inference_steps), field("guidance_scale", model.guidance_scale), field("fps", form.mode === "video_extension" ? "the video's" : model.fps)),
      model.denoises && this.loras(),
      numbers.length > 0 && h("div", { key: "numbers", class: "pair even" }, ...numbers.map(([name, usual]) => field(name, usual, true))),
      options.includes("causal_attention") && this.toggle("causal_attention"),
      options.includes("batch_guidance") && this.toggle("batch_guidance"),
      options.includes("fidelity") &&
        h("div", { key: "fidelity" }, h("span", { class: "label" }, this.data.settings.fidelity?.title), this.segments("Reference", [{ id: "original", label: "SkyReels" }, { id: "diffusers", label: "diffusers" }], form.skyreels?.fidelity ?? "original", (fidelity) => this.option("fidelity", fidelity === "original" ? null : fidelity))),
      this.presetRow(),
    );
  }

  /** @param {string} name @param {any} value */
  option(name, value) {
    change({ skyreels: { ...current().skyreels, [name]: value } });
  }

  /** @param {string} name */
  toggle(name) {
    const { title = name, help } = this.data.settings[name] ?? {};
    return h("label", { key: name, class: "row check", title: help }, h("input", { type: "checkbox", checked: Boolean(current().skyreels?.[name]), onchange: (/** @type {Event} */ event) => this.option(name, /** @type {HTMLInputElement} */ (event.target).checked || null) }), title);
  }

  loras() {
    const model = this.model;
    const uses = /** @type {{name: string, strength: number | number[]}[]} */ (current().loras ?? []);
    const put = (/** @type {string} */ name, /** @type {number | null} */ strength) => {
      const known = uses.some((use) => use.name === name);
      const next = (known ? uses : [...uses, { name, strength: 1 }]).flatMap((use) => (use.name !== name ? [use] : strength === null ? [] : [{ name, strength: [strength] }]));
      change({ loras: next.length ? next : null });
    };
    if (!this.data.loras.length) return null;
    return h(
      "div",
      { key: "loras" },
      h("span", { class: "label" }, "LoRAs"),
      ...this.data.loras.map(({ name, fits }) => {
        const use = uses.find((one) => one.name === name);
        const reason = fits[model.id];
        return h(
          "div",
          { key: name, class: `lora ${reason ? "dim" : ""}` },
          h("label", { class: "row check", title: reason ?? "" }, h("input", { type: "checkbox", checked: Boolean(use), disabled: Boolean(reason) && !use, onchange: (/** @type {Event} */ event) => put(name, /** @type {HTMLInputElement} */ (event.target).checked ? 1 : null) }), h("span", { class: "clip" }, name)),
          use && strengthFields(name, [use.strength].flat(), (strength) => put(name, strength)),
          reason && h("span", { class: "small muted" }, `does not fit: ${reason}`),
        );
      }),
    );
  }

  presetRow() {
    return h(
      "div",
      { key: "presets", class: "row" },
      h("button", { class: "button outlined", "aria-haspopup": "dialog", onclick: () => this.presets.open() }, icon("bookmarks"), "Presets"),
      h("button", { class: "button", onclick: () => replace({ prompt: current().prompt, mode: "text_to_video" }) }, "Reset settings"),
    );
  }

  /** Put the settings of a preset into the form; what the video shows stays. @param {import("./draft.js").Form} settings */
  apply(settings) {
    const own = Object.fromEntries(OWN.map((name) => [name, current()[name]]));
    replace({ ...settings, ...own });
  }

  /** Let the studio say what in settings is none. @param {import("./draft.js").Form} settings */
  async check({ model: _model, loras: _loras, story: _story, ...settings }) {
    const { mode = "text_to_video", variations = 1 } = settings;
    if (!MODES.some((row) => row.mode === mode)) throw new Error(`its mode “${mode}” is not one of the studio's.`);
    if (!(Number.isInteger(variations) && variations >= 1 && variations <= MOST_VARIATIONS)) throw new Error(`it has ${variations} variations; 1 to ${MOST_VARIATIONS} can be made.`);
    await post("/plan", requestOf({ ...FRESH, ...settings, mode: "text_to_video", prompt: "-" }, this.model));
  }

  /** @param {() => Promise<unknown>} act */
  async act(act) {
    try {
      await act();
    } catch (error) {
      this.answer = error instanceof Error ? error.message : String(error);
    }
    this.render();
  }

  // --- plan and press ---

  foot() {
    const { variations = 1, replaces } = current();
    const away = live.connected === false;
    const time = this.plan ? ` · ${about(times(this.plan, variations))}` : "";
    return h(
      "div",
      { key: "foot", class: "foot" },
      replaces && h("p", { key: "replaces", class: "small muted row" }, icon("edit"), "You are editing a queued video. Generate replaces it.", h("button", { class: "button small", onclick: () => this.act(async () => {
        await post(`/jobs/${replaces}/resume`).catch(() => {});
        change({ replaces: null });
      }) }, "Cancel edit")),
      this.answer && h("p", { key: "answer", class: "small answer", role: "status" }, this.answer),
      this.planLine(),
      h(
        "button",
        { key: "generate", class: "button primary generate", disabled: away, onclick: () => this.generate() },
        icon("play_arrow"),
        `Generate${variations > 1 ? ` ${variations}` : ""}${time}`,
        h("kbd", { "aria-hidden": "true" }, "Ctrl ↵"),
      ),
    );
  }

  planLine() {
    const lacks = missing(current());
    if (lacks) return h("p", { key: "plan", class: "small muted plan" }, `The plan appears here once you ${lacks.words}.`);
    if (this.refused) return h("p", { key: "plan", class: "small fault plan", role: "alert" }, this.worded(this.refused));
    const plan = this.plan;
    if (!plan) return h("p", { key: "plan", class: "small muted plan" }, "…");
    const more = planDetails(plan);
    return h(
      "details",
      { key: "plan", class: "small muted plan" },
      h("summary", null, icon("info"), planWords(plan)),
      ...more.map((line) => h("p", null, line)),
      ...plan.notes.map((note) => h("p", { class: "note" }, note)),
    );
  }

  /** The message of a refusal, with the page's names for the settings. @param {ApiError} error */
  worded(error) {
    if (!error.parts.length) return error.message;
    return error.parts
      .map((part) => {
        if (typeof part === "string") return part;
        const title = this.data.settings[part.field.replace(/^skyreels\./, "")]?.title ?? part.field;
        return part.value === null || part.value === undefined ? `"${title}"` : `"${title}" ${part.value}`;
      })
      .join("");
  }
}

/** @typedef {import("./dom.js").Child[]} VNodes */

/** @param {Plan} plan @param {number} count */
function times(plan, count) {
  const { total_s, low_s, high_s } = plan.forecast;
  return { total_s: count * total_s, low_s: low_s && count * low_s, high_s: high_s && count * high_s };
}

/** @param {Plan} plan */
function planWords(plan) {
  const windows = plan.windows.length;
  const passes = windows > 1 ? `${windows} windows` : "one pass";
  const steps = plan.window_steps.reduce((sum, one) => sum + one, 0);
  const cut = plan.notes.length ? ` · ${counted(plan.notes.length, "note")}` : "";
  return `${plan.num_frames} frames in ${passes} · ${steps} steps · ${plan.forecast.peak_gib.toFixed(1)} GiB${cut}`;
}

/** @param {Plan} plan */
function planDetails(plan) {
  const rendered = `${plan.render_width}x${plan.render_height}`;
  const delivered = `${plan.width}x${plan.height}`;
  const how = rendered === delivered ? delivered : `${rendered}, ${plan.enlarged ? "upscaled" : "cropped"} to ${delivered}`;
  return [
    `${plan.model_title} renders ${plan.render_frames} frames at ${how}${plan.render_frames === plan.num_frames ? "" : `; ${plan.num_frames} are kept`}.`,
    plan.source_frames ? `They follow the ${plan.source_frames} frames of your video: ${duration(plan.total_frames / plan.fps)} in all.` : "",
    `Uses ${plan.forecast.peak_gib.toFixed(1)} GiB of memory; the file has up to ${Math.max(1, Math.round(plan.forecast.disk_bytes / 1e6))} MB.`,
  ].filter(Boolean);
}

/** The strength of a LoRA: a slider for the usual ones, a number for all of them; only said where each window has its own.
 * @param {string} name @param {number[]} strengths @param {(strength: number) => void} put @returns {Child} */
function strengthFields(name, strengths, put) {
  const [strength = 1] = strengths;
  if (strengths.length > 1) {
    return h("span", { key: "windows", class: "row small" }, `${strengths.join(", ")}, one for each window`, h("button", { class: "button small", onclick: () => put(strength) }, "Use one"));
  }
  const { least, most } = USUAL_STRENGTH;
  const part = (Math.min(most, Math.max(least, strength)) - least) / (most - least);
  const take = (/** @type {Event} */ event) => {
    const { value, validity } = /** @type {HTMLInputElement} */ (event.target);
    if (value !== "" && validity.valid) put(Number(value));
  };
  return h(
    "span",
    { key: "strength", class: "row" },
    h("input", { type: "range", min: least, max: most, step: 0.05, value: String(strength), "aria-label": `Strength of ${name}`, style: `--part: ${part}`, oninput: take }),
    h("input", { type: "number", class: "few", min: -MOST_STRENGTH, max: MOST_STRENGTH, step: "any", value: String(strength), "aria-label": `Strength of ${name} as a number`, oninput: take }),
  );
}

/** `text` with an underline under each of `words` (letters, digits and apostrophes), where they stand alone. @param {string} text @param {string[]} words
 * @returns {Child[]} */
function marked(text, words) {
  const found = new RegExp(`(?<![\\p{L}\\p{N}\\p{M}])(${words.join("|")})(?![\\p{L}\\p{N}\\p{M}])`, "giu");
  return [...text.split(found).map((part, index) => (index % 2 ? h("u", null, part) : part)), "\n"];
}

/** @param {string} text */
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Make a field as high as its text, where the browser does not know `field-sizing`. @param {HTMLTextAreaElement | null} field */
function fitText(field) {
  if (!field || field.dataset.fitted === field.value || CSS.supports("field-sizing", "content")) return;
  const { scrollTop } = field;
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
  [field.scrollTop, field.dataset.fitted] = [scrollTop, field.value];
}

/** @type {WeakMap<ShadowRoot, Composer>} */
const composers = new WeakMap();

/** @param {import("./types").Component<Data>} component */
export default function show(component) {
  const root = rootOf(component.parentElement, "composer");
  let composer = composers.get(component.parentElement);
  if (composer) {
    composer.data = component.data;
    composer.render();
  } else composers.set(component.parentElement, (composer = new Composer(root, component.data)));
  return () => {
    composer?.end();
    composers.delete(component.parentElement);
  };
}
