/** A filter: a button that opens a list to tick. */

import { useEffect, useId, useRef, useState, type ReactNode } from "react";
import { Icon } from "./Icon";

export interface Option {
  value: string;
  label?: ReactNode;
}

interface PickerProps {
  label: string;
  options: readonly Option[];
  chosen: readonly string[];
  onChange: (chosen: string[]) => void;
  /** Only one at a time. */
  single?: boolean;
  /** Something is always chosen, which is nothing to notice. */
  always?: boolean;
}

const SEARCH_FROM = 12;

export function Picker({ label, options, chosen, onChange, single, always }: PickerProps) {
  const [open, setOpen] = useState(false);
  const [typed, setTyped] = useState("");
  const box = useRef<HTMLSpanElement>(null);
  const button = useRef<HTMLButtonElement>(null);
  const id = useId();
  useEffect(() => {
    if (!open) return;
    setTyped("");
    box.current?.querySelector<HTMLElement>(".picker input")?.focus();
    const outside = (event: PointerEvent) => !box.current?.contains(event.target as Node) && setOpen(false);
    document.addEventListener("pointerdown", outside);
    return () => document.removeEventListener("pointerdown", outside);
  }, [open]);

  const onKeyDown = (event: React.KeyboardEvent) => {
    if (event.key === "Escape" && open) {
      setOpen(false);
      button.current?.focus();
      event.stopPropagation();
    } else if (open && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      const inputs = [...box.current!.querySelectorAll<HTMLElement>(".picker input")];
      const at = inputs.indexOf(document.activeElement as HTMLElement);
      inputs[(at + (event.key === "ArrowDown" ? 1 : -1) + inputs.length) % inputs.length]?.focus();
      event.preventDefault();
    }
  };
  const toggle = (value: string) => {
    const on = chosen.includes(value);
    if (single) {
      onChange(on && !always ? [] : [value]);
      setOpen(false);
      button.current?.focus();
    } else onChange(on ? chosen.filter((each) => each !== value) : [...chosen, value]);
  };
  const shown = options.filter((each) => each.value.toLowerCase().includes(typed.toLowerCase())).slice(0, 200);
  const name = options.find((each) => each.value === chosen[0]);
  return (
    <span className="menu-anchor" ref={box} onKeyDown={onKeyDown}>
      <button ref={button} type="button" className={chosen.length && !always ? "button chosen" : "button"} aria-haspopup="dialog" aria-expanded={open} onClick={() => setOpen(!open)}>
        <span className="muted">{label}</span>
        {chosen.length > 0 && <span className="picker-value truncate">{chosen.length === 1 ? (name?.label ?? chosen[0]) : `${chosen.length} chosen`}</span>}
        <Icon name="down" size={12} />
      </button>
      {open && (
        <div className="menu picker" role="dialog" aria-label={label}>
          {options.length >= SEARCH_FROM && <input className="input" type="search" aria-label={`Find a ${label.toLowerCase()}`} placeholder="Find" value={typed} onChange={(event) => setTyped(event.target.value)} />}
          <div className="picker-list">
            {shown.map((each) => (
              <label key={each.value} className="picker-option">
                <input type={single ? "radio" : "checkbox"} name={id} checked={chosen.includes(each.value)} onChange={() => toggle(each.value)} onClick={() => single && chosen.includes(each.value) && toggle(each.value)} />
                <span className="truncate" title={each.value}>
                  {each.label ?? each.value}
                </span>
              </label>
            ))}
            {shown.length === 0 && <p className="picker-none muted">Nothing here</p>}
          </div>
          {chosen.length > 0 && !always && (
            <button type="button" className="menu-item" onClick={() => (onChange([]), setOpen(false))}>
              Any
            </button>
          )}
        </div>
      )}
    </span>
  );
}
