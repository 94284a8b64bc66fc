/** Files that the browser saves where its user wants them. */

const SAVED_WITHIN_MS = 10_000;

/** Save what is at an address as a file. @param {string} href @param {string} name */
export function saveAs(href, name) {
  const link = document.createElement("a");
  link.href = href;
  link.download = name;
  link.click();
}

/** Save what the page has made as a file. @param {Blob} blob @param {string} name */
export function saveBlob(blob, name) {
  const url = URL.createObjectURL(blob);
  saveAs(url, name);
  setTimeout(() => URL.revokeObjectURL(url), SAVED_WITHIN_MS);
}
