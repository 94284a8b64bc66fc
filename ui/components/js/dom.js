/**
 * Elements from data: `h` describes an element, `patch` makes the children of a node what is described and keeps the
 * elements that are still described, with their focus, their text cursor and their playing video.
 */

/** @typedef {string | number | VNode | null | undefined | false | readonly any[]} Child children, nested at will */
/** @typedef {{tag: string, key: string | undefined, props: Record<string, any>, children: Child[]}} VNode */

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "circle", "rect", "line", "g", "polyline"]);
/** Set as properties: as attributes they would be initial values only. */
const PROPERTIES = new Set(["value", "checked", "muted", "indeterminate", "selected", "loop"]);

/** @type {WeakMap<Node, VNode>} what an element was last made from */
const shown = new WeakMap();
/** @type {WeakMap<EventTarget, Record<string, EventListener | null>>} */
const listeners = new WeakMap();

/** @type {Map<Node, Child[] | null>} parents that are being patched, with what is to follow */
const waiting = new Map();

/**
 * An element of `tag` with attributes, `on...` handlers and children. `key` names it among its siblings; `ref` is called
 * with the element when it is made. Props that are null, undefined or false are left out.
 * @param {string} tag @param {Record<string, any> | null} [props] @param {...Child} children @returns {VNode}
 */
export function h(tag, props, ...children) {
  const { key, ...rest } = props ?? {};
  return { tag, key: key === undefined ? undefined : String(key), props: rest, children };
}

/** A symbol of the font that Streamlit brings; `label` is read aloud, without one the symbol is decoration.
 * @param {string} name @param {string} [label] @returns {VNode} */
export function icon(name, label) {
  const spoken = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  return h("span", { class: "icon", ...spoken }, name);
}

/** Make the children of `parent` what is described. What a handler asks for meanwhile comes after it: removing what has the
 * focus calls those of blur. @param {Node} parent @param {Child[]} children */
export function patch(parent, children) {
  if (waiting.has(parent)) {
    waiting.set(parent, children);
    return;
  }
  waiting.set(parent, null);
  try {
    apply(parent, children);
  } finally {
    const later = waiting.get(parent);
    waiting.delete(parent);
    if (later) patch(parent, later);
  }
}

/** @param {Node} parent @param {Child[]} children */
function apply(parent, children) {
  const wanted = /** @type {(string | VNode)[]} */ (flatten(children));
  const keyed = new Map();
  /** @type {Node[]} */
  const unkeyed = [];
  for (const node of parent.childNodes) {
    const key = shown.get(node)?.key;
    if (key === undefined) unkeyed.push(node);
    else keyed.set(key, node);
  }
  const nodes = wanted.map((child) => {
    const found = typeof child === "object" && child.key !== undefined ? keyed.get(child.key) : next(unkeyed, child);
    return update(found && fits(found, child) ? found : make(child), child);
  });
  const kept = new Set(nodes);
  for (const node of [...parent.childNodes]) if (!kept.has(node)) parent.removeChild(node);
  nodes.forEach((node, index) => {
    const present = parent.childNodes[index] ?? null;
    if (present !== node) place(parent, node, present);
  });
}

/** Put a node before another of `parent`; an element in it that has the focus keeps it.
 * @param {Node} parent @param {Node} node @param {Node | null} before */
function place(parent, node, before) {
  const focused = /** @type {ShadowRoot} */ (node.getRootNode()).activeElement;
  parent.insertBefore(node, before);
  if (focused && node.contains(focused)) /** @type {HTMLElement} */ (focused).focus({ preventScroll: true });
}

/** @param {Child[]} children @returns {(string | VNode)[]} */
function flatten(children) {
  return /** @type {any[]} */ (children.flat(Infinity))
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (typeof child === "number" ? String(child) : child));
}

/** The next of `nodes` that can show `child`; those before it are left out. @param {Node[]} nodes @param {string | VNode} child */
function next(nodes, child) {
  const index = nodes.findIndex((node) => fits(node, child));
  return index < 0 ? undefined : nodes.splice(0, index + 1)[index];
}

/** @param {Node} node @param {string | VNode} child */
function fits(node, child) {
  if (typeof child === "string") return node.nodeType === Node.TEXT_NODE;
  const before = shown.get(node);
  return before !== undefined && before.tag === child.tag && before.key === child.key;
}

/** @param {string | VNode} child @returns {Node} */
function make(child) {
  if (typeof child === "string") return document.createTextNode(child);
  const element = SVG_TAGS.has(child.tag) ? document.createElementNS(SVG, child.tag) : document.createElement(child.tag);
  child.props.ref?.(element);
  return element;
}

/** @param {Node} node @param {string | VNode} child */
function update(node, child) {
  if (typeof child === "string") {
    if (node.nodeValue !== child) node.nodeValue = child;
    return node;
  }
  const element = /** @type {HTMLElement} */ (node);
  const before = shown.get(node)?.props ?? {};
  shown.set(node, child);
  for (const name of Object.keys(before)) if (!(name in child.props)) setProp(element, name, undefined);
  patch(element, child.children); // before the props: a select's value needs its options
  for (const [name, value] of Object.entries(child.props)) {
    if (value !== before[name] || PROPERTIES.has(name)) setProp(element, name, value);
  }
  return node;
}

/** For events that elements have no property for, as focusin. @param {EventTarget} element @param {string} name
 * @param {EventListener | null} handler */
function listen(element, name, handler) {
  const heard = listeners.get(element) ?? {};
  element.removeEventListener(name, heard[name]);
  element.addEventListener(name, handler);
  listeners.set(element, { ...heard, [name]: handler });
}

/** @param {HTMLElement} element @param {string} name @param {any} value */
function setProp(element, name, value) {
  if (name === "ref") return;
  if (name.startsWith("on")) {
    if (name in element) /** @type {any} */ (element)[name] = value ?? null;
    else listen(element, name.slice(2), value ?? null);
  }
  else if (PROPERTIES.has(name)) {
    const there = /** @type {any} */ (element);
    if (there[name] !== value) there[name] = value ?? (name === "value" ? "" : false);
  } else if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : String(value));
}
