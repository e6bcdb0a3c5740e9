/** Tabs: arrows move between them. Which is chosen is best kept in the address (`useSearch`). */

import { useId, type ReactNode } from "react";

export interface Tab<T extends string> {
  id: T;
  label: string;
  count?: number | undefined;
}

export function Tabs<T extends string>(props: { label: string; tabs: readonly Tab<T>[]; chosen: T; onChoose: (id: T) => void; children: ReactNode }) {
  const base = useId();
  const move = (event: React.KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    const at = props.tabs.findIndex((tab) => tab.id === props.chosen);
    const next = props.tabs[(at + step + props.tabs.length) % props.tabs.length]!;
    props.onChoose(next.id);
    document.getElementById(`${base}-${next.id}`)?.focus();
    event.preventDefault();
  };
  return (
    <div className="tabs">
      <div className="tab-list" role="tablist" aria-label={props.label} onKeyDown={move}>
        {props.tabs.map((tab) => (
          <button
            key={tab.id}
            id={`${base}-${tab.id}`}
            type="button"
            role="tab"
            className="tab"
            aria-selected={tab.id === props.chosen}
            aria-controls={`${base}-panel`}
            tabIndex={tab.id === props.chosen ? 0 : -1}
            onClick={() => props.onChoose(tab.id)}
          >
            {tab.label}
            {tab.count !== undefined && <span className="badge">{tab.count}</span>}
          </button>
        ))}
      </div>
      <div id={`${base}-panel`} className="tab-panel" role="tabpanel" aria-labelledby={`${base}-${props.chosen}`}>
        {props.children}
      </div>
    </div>
  );
}
