/** The presets of settings: a dialog in which they are saved, applied, named, made the default, exported and imported. */

import { ask, get } from "./api.js";
import { h, icon } from "./dom.js";
import { saveBlob } from "./save.js";
import { QUALITY, counted } from "./words.js";

/** @typedef {import("./draft.js").Form} Form */
/** @typedef {{name: string, form: Form, is_default: boolean}} Preset */
/**
 * @typedef {object} Page what the dialog asks of the composer
 * @property {() => void} changed draws it again
 * @property {() => Form} settings the present ones
 * @property {(form: Form) => void} apply
 * @property {(form: Form) => Promise<unknown>} check rejects with the reason where the settings are none
 */

const FILE_BYTES = 4e6;
const FORMAT = "studio-presets";
/** What a preset leaves as it is: what the video shows, and what was done with it. */
export const OWN = ["prompt", "image", "end_image", "video", "seed", "replaces", "parent"];
/** What it may hold. */
const SETTINGS = [
  "mode", "story", "negative_prompt", "orientation", "resolution", "num_frames", "fps", "num_inference_steps", "guidance_scale",
  "preset", "fit", "model", "loras", "skyreels", "variations", "drafts", "draft_steps",
];

export class Presets {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    /** @type {Preset[]} */
    this.all = [];
    this.name = "";
    this.renamed = ""; // the preset whose name is being changed
    this.said = "";
    this.bad = false;
    /** @type {Preset | null} */
    this.removed = null;
    /** @type {HTMLDialogElement | null} */
    this.dialog = null;
  }

  get usual() {
    return this.all.find((preset) => preset.is_default);
  }

  async load() {
    this.all = (await get("/presets")).presets;
  }

  open() {
    [this.said, this.name, this.renamed, this.removed] = ["", "", "", null];
    this.page.changed();
    this.dialog?.showModal();
    this.act(() => this.load());
  }

  /** Do something, and say what came of it. @param {() => Promise<string | void>} act */
  async act(act) {
    [this.said, this.removed, this.bad] = ["", null, false];
    try {
      this.said = (await act()) ?? "";
    } catch (error) {
      [this.said, this.bad] = [error instanceof Error ? error.message : String(error), true];
    }
    this.page.changed();
  }

  /** @param {string} name @param {Form} form @param {boolean} [usual] */
  async put(name, form, usual) {
    await ask("PUT", `/presets/${encodeURIComponent(name)}`, { body: { form, ...(usual === undefined ? {} : { is_default: usual }) } });
  }

  save() {
    const name = this.name.trim();
    const before = this.named(name);
    this.act(async () => {
      await this.put(name, this.page.settings());
      await this.load();
      this.name = "";
      return before ? `“${name}” was replaced.` : `“${name}” is saved.`;
    });
  }

  /** @param {string} name */
  named(name) {
    return this.all.find((preset) => preset.name === name);
  }

  /** @param {Preset} preset @param {string} to */
  rename(preset, to) {
    const name = to.trim();
    this.renamed = "";
    this.act(async () => {
      if (name === preset.name) return;
      if (this.named(name)) throw new Error(`There is a preset “${name}” already; choose another name.`);
      await this.put(name, preset.form, preset.is_default);
      await ask("DELETE", `/presets/${encodeURIComponent(preset.name)}`);
      await this.load();
    });
  }

  /** @param {Preset} preset */
  remove(preset) {
    this.act(async () => {
      await ask("DELETE", `/presets/${encodeURIComponent(preset.name)}`);
      await this.load();
      this.removed = preset;
      return `“${preset.name}” was deleted.`;
    });
  }

  undo() {
    const preset = this.removed;
    if (!preset) return;
    this.act(async () => {
      await this.put(preset.name, preset.form, preset.is_default);
      await this.load();
    });
  }

  export() {
    const text = JSON.stringify({ format: FORMAT, version: 1, presets: this.all }, null, 1);
    saveBlob(new Blob([text], { type: "application/json" }), "presets.json");
  }

  /** Add the presets of a file; none that is here is changed. @param {File} file */
  import(file) {
    this.act(async () => {
      const found = await read(file);
      await this.load();
      let added = 0;
      const refused = [];
      for (const one of found) {
        try {
          added += Number(await this.add(one));
        } catch (error) {
          refused.push(`${nameOf(one)}: ${error instanceof Error ? error.message : error}`);
        }
      }
      await this.load();
      const here = found.length - added - refused.length;
      const words = [`${counted(added, "preset")} imported`, here ? `${here} already here` : ""].filter(Boolean).join(", ");
      this.bad = refused.length > 0;
      return [`${words}.`, refused.length ? `Not imported: ${refused.join(" ")}` : ""].filter(Boolean).join(" ");
    });
  }

  /** Add a preset of a file, under another name where that is taken. @param {any} one
   * @returns {Promise<boolean>} false where the same one is here */
  async add(one) {
    const { name, form } = one ?? {};
    if (typeof name !== "string" || !isObject(form)) throw new Error("it has no name or no settings.");
    const unknown = Object.keys(form).find((field) => !SETTINGS.includes(field));
    if (unknown) throw new Error(`it has “${unknown}”, which is no setting of a preset.`);
    const before = this.named(name);
    if (before && same(before.form, form)) return false;
    await this.page.check(form);
    let free = name;
    for (let count = 2; this.named(free); count += 1) free = `${name} ${count}`;
    await this.put(free, form);
    this.all = [...this.all, { name: free, form, is_default: false }];
    return true;
  }

  // --- how it looks ---

  view() {
    return h(
      "dialog",
      {
        key: "presets",
        class: "card presets",
        "aria-labelledby": "presets-title",
        ref: (/** @type {HTMLDialogElement} */ element) => {
          this.dialog = element;
        },
        onkeydown: (/** @type {KeyboardEvent} */ event) => event.stopPropagation(),
      },
      h(
        "div",
        { class: "row spread" },
        h("h2", { id: "presets-title", class: "section" }, "Presets"),
        h("button", { class: "button round", "aria-label": "Close", onclick: () => this.dialog?.close() }, icon("close")),
      ),
      h("p", { class: "small muted" }, "The settings of the form under a name, without its prompt, inputs and seed."),
      this.saving(),
      this.all.length ? h("ul", null, ...this.all.map((preset) => this.row(preset))) : h("p", { class: "muted none" }, "Your presets appear here."),
      h(
        "p",
        { class: `small row said ${this.bad ? "fault" : ""}`, role: "status" },
        this.said,
        this.removed && h("button", { class: "button tinted small", onclick: () => this.undo() }, "Undo"),
      ),
      h(
        "div",
        { class: "row" },
        h("button", { class: "button outlined", disabled: !this.all.length, onclick: () => this.export() }, icon("download"), "Export"),
        h(
          "label",
          { class: "button outlined" },
          icon("upload"),
          "Import",
          h("input", {
            type: "file",
            class: "spoken",
            "aria-label": "Import presets",
            accept: ".json,application/json",
            onchange: (/** @type {Event} */ event) => {
              const input = /** @type {HTMLInputElement} */ (event.target);
              const file = input.files?.[0];
              if (file) this.import(file);
              input.value = "";
            },
          }),
        ),
      ),
    );
  }

  saving() {
    const taken = this.named(this.name.trim());
    return h(
      "form",
      {
        class: "row",
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          this.save();
        },
      },
      h("div", { class: "field grow" }, h("input", {
        "aria-label": "Name of the preset",
        placeholder: "Name",
        maxlength: 80,
        value: this.name,
        oninput: (/** @type {Event} */ event) => {
          this.name = /** @type {HTMLInputElement} */ (event.target).value;
          this.page.changed();
        },
      })),
      h("button", { class: "button tinted", type: "submit", disabled: !this.name.trim() }, taken ? "Replace" : "Save these settings"),
    );
  }

  /** @param {Preset} preset */
  row(preset) {
    const { name, form, is_default } = preset;
    const apply = () => {
      this.dialog?.close();
      this.page.apply(form);
    };
    if (this.renamed === name) return this.renaming(preset);
    return h(
      "li",
      { key: name, class: "row" },
      h("button", { class: "button apply", onclick: apply }, h("b", { class: "clip" }, name), h("span", { class: "small muted clip" }, [is_default && "default", summary(form)].filter(Boolean).join(" · "))),
      this.button("star", is_default ? `${name} is the default: used for an empty form` : `Make ${name} the default`, () =>
        this.act(async () => {
          await this.put(name, form, !is_default);
          await this.load();
        }), is_default),
      this.button("edit", `Rename ${name}`, () => {
        this.renamed = name;
        this.page.changed();
        const field = /** @type {HTMLInputElement | null | undefined} */ (this.dialog?.querySelector("li input"));
        field?.select();
      }),
      this.button("delete", `Delete ${name}`, () => this.remove(preset)),
    );
  }

  /** @param {string} symbol @param {string} label @param {() => void} act @param {boolean} [pressed] */
  button(symbol, label, act, pressed) {
    return h("button", { class: `button round ${pressed ? "on" : ""}`, "aria-label": label, title: label, "aria-pressed": pressed === undefined ? undefined : String(pressed), onclick: act }, icon(symbol));
  }

  /** @param {Preset} preset */
  renaming(preset) {
    const end = () => {
      this.renamed = "";
      this.page.changed();
    };
    return h(
      "li",
      { key: `rename ${preset.name}` },
      h(
        "form",
        {
          class: "row",
          onsubmit: (/** @type {Event} */ event) => {
            event.preventDefault();
            const field = /** @type {HTMLInputElement | null} */ (/** @type {HTMLElement} */ (event.currentTarget).querySelector("input"));
            this.rename(preset, field?.value ?? "");
          },
        },
        h("div", { class: "field grow" }, h("input", { "aria-label": `New name of ${preset.name}`, maxlength: 80, ref: (/** @type {HTMLInputElement} */ field) => {
          field.value = preset.name;
        } })),
        h("button", { class: "button tinted", type: "submit" }, "Rename"),
        h("button", { class: "button", type: "button", onclick: end }, "Cancel"),
      ),
    );
  }
}

/** The settings in a few words. @param {Form} form */
function summary(form) {
  const frames = form.num_frames ? `${form.num_frames} frames` : "";
  return [form.model, form.resolution, frames, QUALITY[form.preset]].filter(Boolean).join(" · ");
}

/** The presets in a file. @param {File} file @returns {Promise<unknown[]>} */
async function read(file) {
  if (file.size > FILE_BYTES) throw new Error(`${file.name} has more than 4 MB; choose a file that Export has saved.`);
  const found = await file.text().then(JSON.parse, () => null).catch(() => null);
  if (!isObject(found) || found.format !== FORMAT || !Array.isArray(found.presets)) {
    throw new Error(`${file.name} holds no presets; choose a file that Export has saved.`);
  }
  if (found.version !== 1) throw new Error(`${file.name} is of a newer version of the studio; update the studio first.`);
  return found.presets;
}

/** @param {any} one */
const nameOf = (one) => (typeof one?.name === "string" ? `“${one.name.slice(0, 80)}”` : "A preset without a name");

/** @param {any} value @returns {value is Record<string, any>} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** @param {any} one @param {any} other */
const same = (one, other) => JSON.stringify(sorted(one)) === JSON.stringify(sorted(other));

/** @param {any} value @returns {any} with the fields of objects by name */
function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.keys(value).sort().map((name) => [name, sorted(value[name])]));
}
