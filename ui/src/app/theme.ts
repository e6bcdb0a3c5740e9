/** Light, dark, or as the system has it. */

import { useSyncExternalStore } from "react";

export type Theme = "auto" | "light" | "dark";
const STORED = "perdure.theme";
const watchers = new Set<() => void>();

function read(): Theme {
  const stored = localStorage.getItem(STORED);
  return stored === "light" || stored === "dark" ? stored : "auto";
}

let theme = read();

function apply(): void {
  if (theme === "auto") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme;
}
apply();

export function setTheme(next: Theme): void {
  theme = next;
  if (next === "auto") localStorage.removeItem(STORED);
  else localStorage.setItem(STORED, next);
  apply();
  watchers.forEach((tell) => tell());
}

export const useTheme = (): Theme =>
  useSyncExternalStore(
    (tell) => (watchers.add(tell), () => void watchers.delete(tell)),
    () => theme,
  );
