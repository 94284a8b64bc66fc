/** The root of a component, in the colour scheme that Streamlit shows. */

/** @type {WeakMap<ShadowRoot, HTMLElement>} */
const roots = new WeakMap();

/** The one element that a component renders into, made at the first call. @param {ShadowRoot} parentElement @param {string} name
 * @returns {HTMLElement} */
export function rootOf(parentElement, name) {
  let root = roots.get(parentElement);
  if (!root) {
    root = document.createElement("div");
    root.className = `root ${name}`;
    parentElement.append(root);
    roots.set(parentElement, root);
  }
  // light-dark() follows the system inside a shadow root; the page may show the other scheme.
  root.style.colorScheme = isDark(getComputedStyle(root).getPropertyValue("--st-background-color")) ? "dark" : "light";
  return root;
}

/** Whether a colour, as #rgb, #rrggbb or rgb(), is dark. @param {string} colour */
function isDark(colour) {
  const hex = colour.trim().replace(/^#(.)(.)(.)$/, "#$1$1$2$2$3$3");
  const parts = hex.startsWith("#")
    ? [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16))
    : (hex.match(/[\d.]+/g) ?? []).slice(0, 3).map(Number);
  return parts.length === 3 && parts.reduce((sum, part) => sum + part, 0) < 384;
}

/** Whether the user asked the system for less motion. */
export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
