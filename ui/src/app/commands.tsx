/** Shortcuts and commands: whoever is on the page registers what can be done; `?` lists keys, Ctrl-K finds commands. */

import { useEffect, useRef, useSyncExternalStore } from "react";

export interface Command {
  id: string;
  title: string;
  section: string;
  run: () => void;
  /** Keys that do it: `r`, `Shift+R`, or two after each other, `g i`. None while a field is typed in. */
  keys?: string;
  /** More words to find it by. */
  words?: string;
}

const registered = new Map<symbol, readonly Command[]>();
let all: readonly Command[] = [];
const watchers = new Set<() => void>();

function changedNow(): void {
  all = [...registered.values()].flat();
  watchers.forEach((tell) => tell());
}

/** Makes commands known as long as the component is there. */
export function useCommands(commands: readonly Command[]): void {
  const latest = useRef(commands);
  latest.current = commands;
  const names = commands.map((each) => `${each.id} ${each.title} ${each.keys ?? ""}`).join("\n");
  useEffect(() => {
    const token = Symbol();
    const alive = latest.current.map((each, index) => ({ ...each, run: () => latest.current[index]?.run() }));
    registered.set(token, alive);
    changedNow();
    return () => {
      registered.delete(token);
      changedNow();
    };
  }, [names]);
}

export const useAllCommands = (): readonly Command[] =>
  useSyncExternalStore(
    (tell) => (watchers.add(tell), () => void watchers.delete(tell)),
    () => all,
  );

const SEQUENCE_MS = 1200;
let pending = "";
let pendingAt = 0;

function named(event: KeyboardEvent): string {
  const shift = event.shiftKey && event.key.length > 1 ? "Shift+" : "";
  return shift + (event.shiftKey && /^[a-z]$/i.test(event.key) ? `Shift+${event.key.toUpperCase()}` : event.key);
}

function onKeyDown(event: KeyboardEvent): void {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.key === "Shift") return;
  const target = event.target as HTMLElement;
  if (target.closest("input, textarea, select, [contenteditable], .cm-editor, dialog")) return;
  const key = named(event);
  const now = Date.now();
  const sequence = pending !== "" && now - pendingAt < SEQUENCE_MS ? `${pending} ${key}` : key;
  pending = "";
  const found = all.findLast((each) => each.keys === sequence);
  if (found) {
    event.preventDefault();
    found.run();
  } else if (all.some((each) => each.keys?.startsWith(`${key} `))) {
    pending = key;
    pendingAt = now;
  }
}
document.addEventListener("keydown", onKeyDown);
