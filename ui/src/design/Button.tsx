import { useState, type ButtonHTMLAttributes, type ReactNode } from "react";
import { Icon, type IconName } from "./Icon";

interface ButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  kind?: "default" | "primary" | "danger" | "quiet";
  small?: boolean;
  icon?: IconName;
  /** While what it did is under way: it keeps its place and cannot be pressed. */
  busy?: boolean;
}

export function Button({ kind = "default", small, icon, busy, children, className, disabled, ...rest }: ButtonProps) {
  const classes = ["button", kind, small && "small", className].filter(Boolean).join(" ");
  return (
    <button type="button" className={classes} disabled={disabled || busy} aria-busy={busy || undefined} {...rest}>
      {icon && <Icon name={icon} />}
      {children}
    </button>
  );
}

/** A button that is an icon; `label` is its name for those who do not see it, and its tooltip. */
export function IconButton({ icon, label, ...rest }: { icon: IconName; label: string } & ButtonProps) {
  return <Button kind="quiet" className="icon-button" icon={icon} aria-label={label} title={label} {...rest} />;
}

export function CopyButton({ text, label = "Copy" }: { text: string | (() => string); label?: string }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(typeof text === "string" ? text : text());
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return <IconButton small icon={done ? "check" : "copy"} label={done ? "Copied" : label} onClick={() => void copy()} />;
}

/** An id: in full for whoever copies or hovers, shortened in its middle where there is no room. */
export function Id({ value, keep }: { value: string; keep?: number }) {
  const shown = keep === undefined || value.length <= keep + 8 ? value : `${value.slice(0, keep)}…${value.slice(-5)}`;
  return (
    <span className="mono id" title={value}>
      {shown}
    </span>
  );
}

export function Field({ label, hint, error, children }: { label: string; hint?: ReactNode; error?: ReactNode; children: ReactNode }) {
  return (
    <label className="field">
      <span className="field-label">{label}</span>
      {children}
      {hint && !error && <span className="field-hint">{hint}</span>}
      {error && (
        <span className="field-error" role="alert">
          {error}
        </span>
      )}
    </label>
  );
}
