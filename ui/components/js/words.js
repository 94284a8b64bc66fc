/** Numbers and times as the pages write them, and the names of the qualities. */

/** What the pages call the presets that decide between time and quality. */
export const QUALITY = /** @type {Record<string, string>} */ ({ exact: "Best", balanced: "Balanced", turbo: "Fast" });

/** Seconds in words. @param {number} seconds */
export function duration(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) {
    const [minutes, rest] = [Math.floor(whole / 60), whole % 60];
    return rest && minutes < 10 ? `${minutes} min ${String(rest).padStart(2, "0")} s` : `${Math.round(whole / 60)} min`;
  }
  const minutes = Math.round(whole / 60);
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

/** A duration that is an estimate: whole seconds from 1 on. @param {number} seconds */
export const estimate = (seconds) => (seconds < 1 ? "1 s" : duration(Math.round(seconds)).replace(".0 s", " s"));

/** "about 3 min", or a range as long as few renders support it. @param {{total_s: number, low_s?: number | null,
 * high_s?: number | null}} forecast */
export function about(forecast) {
  const { total_s, low_s, high_s } = forecast;
  if (low_s === null || low_s === undefined || high_s === null || high_s === undefined) return `about ${estimate(total_s)}`;
  return range(low_s, high_s);
}

/** "2 to 3 min" @param {number} low seconds @param {number} high seconds */
export function range(low, high) {
  const [from, to] = [estimate(low), estimate(high)];
  if (from === to) return `about ${to}`;
  const [[value, unit, ...more], [, other, ...others]] = [from.split(" "), to.split(" ")];
  return unit === other && !more.length && !others.length ? `${value} to ${to}` : `${from} to ${to}`;
}

/** The time of day. @param {number} at seconds since the epoch */
export const clock = (at) => new Date(1000 * at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

/** "just now", "3 min ago", "yesterday 21:14", "29 Nov, 20:51" @param {number} at seconds since the epoch */
export function ago(at, now = Date.now() / 1000) {
  const passed = Math.max(0, now - at);
  if (passed < 45) return "just now";
  if (passed < 3600) return `${Math.round(passed / 60)} min ago`;
  const [then, today] = [new Date(1000 * at), new Date(1000 * now)];
  const midnight = new Date(today.getFullYear(), today.getMonth(), today.getDate()).getTime() / 1000;
  if (at >= midnight) return clock(at);
  if (at >= midnight - 86400) return `yesterday ${clock(at)}`;
  return `${then.toLocaleDateString([], { day: "numeric", month: "short" })}, ${clock(at)}`;
}

/** Bytes in the units that disks are sold in. @param {number} bytes */
export function size(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

/** "1 video", "3 videos" @param {number} count @param {string} noun */
export const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** Seconds of a player with the frames behind the point. @param {number} seconds */
export const position = (seconds) =>
  seconds < 60 ? seconds.toFixed(2) : `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
