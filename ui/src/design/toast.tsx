/** Short messages about what was done: `toast("Cancelled")`, from anywhere. */

import { useSyncExternalStore } from "react";
import { IconButton } from "./Button";
import { Icon } from "./Icon";

interface Toast {
  id: number;
  text: string;
  bad: boolean;
}

const MOST = 4;
let toasts: readonly Toast[] = [];
let next = 1;
const watchers = new Set<() => void>();

function set(list: readonly Toast[]): void {
  toasts = list;
  watchers.forEach((tell) => tell());
}

const dismiss = (id: number) => set(toasts.filter((each) => each.id !== id));

/** Errors stay until they are closed. */
export function toast(text: string, options: { bad?: boolean } = {}): void {
  const id = next++;
  set([...toasts.slice(1 - MOST), { id, text, bad: options.bad ?? false }]);
  if (!options.bad) setTimeout(() => dismiss(id), 5000);
}

export const toastError = (error: unknown): void => toast(error instanceof Error ? error.message : String(error), { bad: true });

export function Toasts() {
  const shown = useSyncExternalStore(
    (tell) => (watchers.add(tell), () => void watchers.delete(tell)),
    () => toasts,
  );
  return (
    <div className="toasts" role="status" aria-live="polite">
      {shown.map((each) => (
        <div key={each.id} className={each.bad ? "toast bad" : "toast"}>
          <Icon name={each.bad ? "warning" : "check"} />
          <span className="grow">{each.text}</span>
          <IconButton small icon="close" label="Dismiss" onClick={() => dismiss(each.id)} />
        </div>
      ))}
    </div>
  );
}
