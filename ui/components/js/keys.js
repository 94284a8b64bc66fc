/** Keyboard shortcuts of a page: none acts while somebody types. */

const TYPING = "input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable=true]";

/** Whether the event goes to a field in which one types. @param {KeyboardEvent} event */
export function isTyping(event) {
  const target = event.composedPath()[0];
  return target instanceof Element && target.matches(TYPING);
}

/** "Ctrl+Enter", "Shift+ArrowLeft", "f". @param {KeyboardEvent} event */
export function named(event) {
  const held = [event.ctrlKey || event.metaKey ? "Ctrl" : "", event.altKey ? "Alt" : "", event.shiftKey ? "Shift" : ""];
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  // What needs Shift on some keyboard is named by itself.
  const name = /^[^a-z0-9 ]$/.test(key) ? [held[0], held[1], key] : [...held, key];
  return name.filter(Boolean).join("+");
}

/** Call `act` for keys on the page; it returns whether it used one, which then does nothing else. Keys of a control that
 * has the focus are left to it: Space and Enter on buttons, arrows on sliders and radio buttons.
 * @param {(key: string, event: KeyboardEvent) => boolean | void} act @returns {() => void} what ends that */
export function onKeys(act) {
  /** @param {KeyboardEvent} event */
  const listen = (event) => {
    if (event.defaultPrevented || isTyping(event) || isForControl(event)) return;
    if (act(named(event), event)) event.preventDefault();
  };
  document.addEventListener("keydown", listen);
  return () => document.removeEventListener("keydown", listen);
}

/** @param {KeyboardEvent} event */
function isForControl(event) {
  const target = event.composedPath()[0];
  if (!(target instanceof Element)) return false;
  if (event.key === " " || event.key === "Enter") return target.matches("button, a, summary, input, [role=button], [role=radio]");
  return /^(Arrow|Home|End|Page)/.test(event.key) && target.matches("input, [role=radio], [role=slider], [role=menuitem]");
}
