/** What the invocation shows while it works: its streams, live. */

import { useEffect, useState } from "react";
import { useQuery } from "@tanstack/react-query";
import { followStream, type StreamState } from "@/api/events";
import { every, LIVE } from "@/api/live";
import { query, text } from "@/api/sql";
import { JsonView } from "@/design/Json";
import { Empty, ErrorState, SkeletonLines } from "@/design/states";
import css from "./invocation.module.css";

export function Streams({ id, over }: { id: string; over: boolean }) {
  const names = useQuery({
    queryKey: ["streams", id],
    queryFn: async ({ signal }) => (await query<{ name: string }>(`SELECT name FROM sys_stream WHERE id = ${text(id)} ORDER BY name LIMIT 50`, signal)).map((row) => row.name),
    refetchInterval: over ? false : every(LIVE.normal),
  });
  if (names.error) return <ErrorState error={names.error} retry={() => void names.refetch()} />;
  if (names.data === undefined) return <SkeletonLines lines={3} />;
  if (names.data.length === 0) return <Empty title="No stream">What a handler writes to ctx.stream(name) is shown here as it comes.</Empty>;
  return (
    <div className="stack">
      {names.data.map((name) => (
        <StreamView key={name} id={id} name={name} />
      ))}
    </div>
  );
}

function StreamView({ id, name }: { id: string; name: string }) {
  const [state, setState] = useState<StreamState | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    const stop = new AbortController();
    const at = `/invocations/${encodeURIComponent(id)}/streams/${encodeURIComponent(name)}`;
    followStream(at, setState, stop.signal).catch((problem: unknown) => !stop.signal.aborted && setError(problem));
    return () => stop.abort();
  }, [id, name]);
  return (
    <section className={css.part}>
      <h3>
        {name} {state !== null && state.ended === null && <span className="badge">live</span>}
      </h3>
      {error !== null && <ErrorState error={error} />}
      {state === null && error === null && <SkeletonLines lines={2} />}
      {state !== null && <div className={css.parts}>{partsOf(state).map((each, index) => <Part key={index} part={each} />)}</div>}
    </section>
  );
}

interface Shown {
  type: string;
  text: string;
  name: string;
  value: unknown;
}

/** The chunks as parts of a message (docs/streaming.md): neighbouring texts are one, a tool's input is shown whole. */
function partsOf(state: StreamState): Shown[] {
  const parts: Shown[] = [];
  for (const chunk of state.chunks.values()) {
    const part = (typeof chunk === "object" && chunk !== null ? chunk : { type: "text", text: String(chunk) }) as Record<string, unknown>;
    const type = typeof part["type"] === "string" ? part["type"] : "data";
    const last = parts.at(-1);
    if (type === "text" || type === "reasoning") {
      if (last?.type === type) last.text += String(part["text"] ?? "");
      else parts.push({ type, text: String(part["text"] ?? ""), name: "", value: null });
    } else if (type !== "tool-call-delta") {
      parts.push({ type, text: "", name: String(part["name"] ?? part["id"] ?? ""), value: part["input"] ?? part["output"] ?? part["error"] ?? part["data"] ?? part["state"] ?? chunk });
    }
  }
  return parts;
}

function Part({ part }: { part: Shown }) {
  if (part.type === "text") return <p className={css.said}>{part.text}</p>;
  if (part.type === "reasoning") return <p className={`${css.said} muted`}>{part.text}</p>;
  const what = { "tool-call": "Uses", "tool-result": "Found by" }[part.type] ?? part.type;
  return (
    <div className={css.toolPart}>
      <span className="muted">{what}</span> {part.name}
      <JsonView value={part.value} label={part.name} />
    </div>
  );
}
