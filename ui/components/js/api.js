/** The REST API of the studio, for its own pages: relative to where this module was loaded from, so under any path. */

/** The address of the studio, with the path under which a reverse proxy shows it. */
export const STUDIO = new URL("../../../../", import.meta.url);

/** A refusal of the studio, or its absence (status 0). */
export class ApiError extends Error {
  /** @param {string} message @param {number} status @param {string} code @param {string | null} field
   * @param {(string | {field: string, value: string | null})[]} parts */
  constructor(message, status, code, field = null, parts = []) {
    super(message);
    this.status = status;
    this.code = code;
    this.field = field;
    this.parts = parts;
  }
}

export const AWAY = "The studio is not running. Your text is safe; it is sent once the studio is back.";

/** The address of a path of the API or of a media file. @param {string} path @param {Record<string, any>} [query] */
export function address(path, query = {}) {
  const url = new URL(path.replace(/^\//, ""), STUDIO);
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "" && one !== false) url.searchParams.append(name, String(one));
    }
  }
  return url.href;
}

/** Ask the API. Resolves to the answer's JSON; rejects with ApiError.
 * @param {string} method @param {string} path below /api/v1 @param {{query?: Record<string, any>, body?: unknown,
 * headers?: Record<string, string>, signal?: AbortSignal}} [more] @returns {Promise<any>} */
export async function ask(method, path, { query, body, headers = {}, signal } = {}) {
  /** @type {Response} */
  let response;
  try {
    response = await fetch(address(`api/v1${path}`, query), {
      method,
      headers: body === undefined ? headers : { "Content-Type": "application/json", ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(AWAY, 0, "away");
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw refusal(response.status, answer);
  if (answer === null) throw new ApiError(AWAY, 0, "away"); // it was cut off
  return answer;
}

/** @param {number} status @param {any} answer */
function refusal(status, answer) {
  const { message = `The studio answered with ${status}.`, code = `http_${status}`, field = null, parts } =
    answer?.error ?? {};
  return new ApiError(message, status, code, field, parts ?? []);
}

export const get = (/** @type {string} */ path, /** @type {Record<string, any>} */ query = {}) =>
  ask("GET", path, { query });
export const post = (/** @type {string} */ path, /** @type {unknown} */ body = undefined) => ask("POST", path, { body });

/** Send a file to the upload route; `onProgress` gets 0 to 1. `signal` ends it.
 * @param {File | Blob} file @param {string} filename @param {(part: number) => void} [onProgress]
 * @param {AbortSignal} [signal] @param {string} [route] @returns {Promise<any>} the upload */
export function upload(file, filename, onProgress = () => {}, signal = undefined, route = "api/v1/uploads") {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells nothing of how much was sent
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onerror = () => reject(new ApiError("The studio is not running; send the file again once it is.", 0, "away"));
    request.onabort = () => reject(new DOMException("", "AbortError"));
    request.onload = () => {
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch {
        /* a proxy's page: said by its status */
      }
      if (request.status === 201) resolve(answer);
      else reject(refusal(request.status, answer));
    };
    signal?.addEventListener("abort", () => request.abort());
    request.open("POST", address(route, { filename }));
    request.send(file);
  });
}

const LEAST_SIDE = 64; // of a preview, as of a video
const PREVIEW_SIDE = 320;

/** The address of a picture of an upload as the model will see it, in the shape of the video.
 * @param {string} id @param {{width: number, height: number}} video @param {{fit?: string, crop_position?: number}} request */
export function inputPreview(id, { width, height }, { fit = "crop", crop_position: position }) {
  const scale = Math.max(LEAST_SIDE / Math.min(width, height), Math.min(1, PREVIEW_SIDE / Math.max(width, height)));
  return address(`app/static/uploads/${id}/preview.jpg`, { width: Math.round(scale * width), height: Math.round(scale * height), fit, position });
}
