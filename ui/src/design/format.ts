/** Numbers and times as people read them. */

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

export const count = (value: number): string => NUMBER.format(value);
/** 1,234,567 -> 1.2M; small ones as they are. */
export const compact = (value: number): string => (Math.abs(value) < 10_000 ? NUMBER.format(value) : COMPACT.format(value));
export const plural = (value: number, one: string, many = `${one}s`): string => `${count(value)} ${value === 1 ? one : many}`;

export function bytes(value: number): string {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) (value /= 1000), unit++;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** Per second, with as many digits as say something. */
export const rate = (value: number): string => (value === 0 ? "0" : value < 10 ? value.toFixed(value < 1 ? 2 : 1) : compact(value));

/** A duration, ms -> `340 ms`, `1.2 s`, `4m 10s`, `3h 5m`, `2d 4h`. */
export function duration(ms: number): string {
  if (!Number.isFinite(ms)) return "–";
  if (ms < 0) return `−${duration(-ms)}`;
  if (ms < 1) return ms === 0 ? "0 ms" : "< 1 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 59.5) return `${Math.round(s)} s`;
  const pairs: [number, string][] = [
    [86_400, "d"],
    [3600, "h"],
    [60, "m"],
    [1, "s"],
  ];
  const whole = Math.round(s);
  const first = pairs.findIndex(([size]) => whole >= size);
  const [size, unit] = pairs[first]!;
  const large = Math.floor(whole / size);
  const next = pairs[first + 1];
  const small = next ? Math.floor((whole - large * size) / next[0]) : 0;
  return small === 0 ? `${large}${unit}` : `${large}${unit} ${small}${next![1]}`;
}

/** `just now`, `12s ago`, `in 3m`, `5d ago`. */
export function relative(at: number, now: number): string {
  const away = Math.abs(now - at);
  if (away < 2000) return "just now";
  const [size, unit] = (
    [
      [86_400_000, "d"],
      [3_600_000, "h"],
      [60_000, "m"],
      [1000, "s"],
    ] as const
  ).find(([size]) => away >= size)!;
  const text = `${Math.floor(away / size)}${unit}`;
  return at > now ? `in ${text}` : `${text} ago`;
}

export const exact = (at: number): string => EXACT.format(at);
/** For a tooltip: local time with ms, and the time that is in the API. */
export function precise(at: number): string {
  const iso = new Date(at).toISOString();
  return `${exact(at)}\n${iso}`;
}
