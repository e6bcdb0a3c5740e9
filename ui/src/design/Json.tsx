/** JSON as a tree that opens and closes; the text of payloads as what they are. */

import { useMemo, useState } from "react";
import { CopyButton } from "./Button";

const OPEN_DEPTH = 2;
const MOST_CHILDREN = 200;
const LONG = 400;

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

function Leaf({ value }: { value: null | boolean | number | string }) {
  const [whole, setWhole] = useState(false);
  if (typeof value !== "string") return <span className={`json-${value === null ? "null" : typeof value}`}>{String(value)}</span>;
  const cut = !whole && value.length > LONG;
  return (
    <span className="json-string">
      "{cut ? value.slice(0, LONG) : value}"
      {cut && (
        <button type="button" className="json-more" onClick={() => setWhole(true)}>
          … {value.length - LONG} more characters
        </button>
      )}
    </span>
  );
}

function Node({ name, value, depth }: { name?: string; value: Json; depth: number }) {
  const [open, setOpen] = useState(depth < OPEN_DEPTH);
  const [most, setMost] = useState(MOST_CHILDREN);
  const label = name === undefined ? null : <span className="json-name">{name}: </span>;
  if (value === null || typeof value !== "object") {
    return (
      <div className="json-line">
        {label}
        <Leaf value={value} />
      </div>
    );
  }
  const list = Array.isArray(value);
  const entries: [string, Json][] = list ? value.map((each, index) => [String(index), each]) : Object.entries(value);
  const [begin, end] = list ? "[]" : "{}";
  if (entries.length === 0) {
    return (
      <div className="json-line">
        {label}
        {begin}
        {end}
      </div>
    );
  }
  return (
    <div className="json-node">
      <button type="button" className="json-toggle" aria-expanded={open} onClick={() => setOpen(!open)}>
        <span className="json-arrow" aria-hidden="true" />
        {label}
        {begin}
        {!open && (
          <span className="json-summary">
            {" "}
            {entries.length} {list ? "items" : "fields"} {end}
          </span>
        )}
      </button>
      {open && (
        <>
          <div className="json-children">
            {entries.slice(0, most).map(([key, each]) => (
              <Node key={key} {...(list ? {} : { name: key })} value={each} depth={depth + 1} />
            ))}
            {entries.length > most && (
              <button type="button" className="json-more" onClick={() => setMost(most + 1000)}>
                … {entries.length - most} more
              </button>
            )}
          </div>
          <div className="json-line">{end}</div>
        </>
      )}
    </div>
  );
}

/** Shows a value; `label` names it for the copy button and for screen readers. */
export function JsonView({ value, label = "JSON" }: { value: unknown; label?: string }) {
  return (
    <div className="json" role="group" aria-label={label}>
      <span className="json-copy">
        <CopyButton label={`Copy ${label}`} text={() => JSON.stringify(value, null, 2)} />
      </span>
      <Node value={value as Json} depth={0} />
    </div>
  );
}

/** A payload: JSON as a tree, other text as text, bytes as their number. `base64` is how the admin API gives it. */
export function Payload({ base64, label }: { base64: string | null | undefined; label?: string }) {
  const read = useMemo(() => (base64 == null ? null : decoded(base64)), [base64]);
  if (read === null || read.kind === "empty") return <span className="muted">Empty</span>;
  if (read.kind === "json") return <JsonView value={read.value} {...(label ? { label } : {})} />;
  if (read.kind === "text") return <CodeBlock text={read.text} {...(label ? { label } : {})} />;
  return <span className="muted">{read.size} bytes that are no text</span>;
}

export type Decoded = { kind: "empty" } | { kind: "json"; value: unknown } | { kind: "text"; text: string } | { kind: "bytes"; size: number };

export function decoded(base64: string): Decoded {
  const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  if (bytes.length === 0) return { kind: "empty" };
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return { kind: "bytes", size: bytes.length };
  }
  try {
    return { kind: "json", value: JSON.parse(text) as unknown };
  } catch {
    return { kind: "text", text };
  }
}

/** Text as it is: code, a traceback, a command. */
export function CodeBlock({ text, label = "text" }: { text: string; label?: string }) {
  return (
    <div className="code-block">
      <span className="json-copy">
        <CopyButton label={`Copy ${label}`} text={text} />
      </span>
      <pre tabIndex={0} role="region" aria-label={label}>
        {text}
      </pre>
    </div>
  );
}
