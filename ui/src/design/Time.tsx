/** Times, relative to now, with the exact one on hover. One clock turns for all of them. */

import { useSyncExternalStore } from "react";
import { duration, precise, relative } from "./format";

let now = Date.now();
let timer: number | undefined;
const watchers = new Set<() => void>();

function watch(tell: () => void): () => void {
  watchers.add(tell);
  timer ??= window.setInterval(() => {
    if (document.hidden) return;
    now = Date.now();
    watchers.forEach((each) => each());
  }, 1000);
  return () => {
    watchers.delete(tell);
    if (watchers.size === 0) {
      window.clearInterval(timer);
      timer = undefined;
    }
  };
}

/** The time, which changes once a second. */
export const useNow = (): number => useSyncExternalStore(watch, () => (timer === undefined ? (now = Math.floor(Date.now() / 1000) * 1000) : now));

export function Time({ at }: { at: string | number | null | undefined }) {
  const current = useNow();
  if (at === null || at === undefined) return <span className="muted">–</span>;
  const ms = typeof at === "number" ? at : Date.parse(at);
  return (
    <time dateTime={new Date(ms).toISOString()} title={precise(ms)}>
      {relative(ms, current)}
    </time>
  );
}

/** How long it took, or takes until now. */
export function Elapsed({ from, to }: { from: string; to?: string | undefined }) {
  const current = useNow();
  const [begin, end] = [Date.parse(from), to === undefined ? current : Date.parse(to)];
  return <span title={precise(begin) + (to === undefined ? "" : `\n${precise(end)}`)}>{duration(Math.max(0, end - begin))}</span>;
}
