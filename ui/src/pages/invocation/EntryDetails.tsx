/** One entry of the journal: what went in, what came out, what it cost. */

import { Link, path } from "@/app/router";
import { Button } from "@/design/Button";
import { CodeBlock, decoded, JsonView, Payload } from "@/design/Json";
import { Time } from "@/design/Time";
import { count, duration } from "@/design/format";
import type { EntryResult, Span } from "./described";
import css from "./invocation.module.css";

interface Usage {
  model?: string;
  input_tokens?: number;
  cached_tokens?: number;
  output_tokens?: number;
  cost?: number;
  prices?: string;
  attempt?: number;
}

/** A model's or a tool's record: the value beside its usage (docs/usage.md). */
function record(result: EntryResult | undefined): { usage?: Usage; value?: unknown; raised?: unknown } | null {
  if (result?.kind !== "Value") return null;
  const read = decoded((result as { content: string }).content);
  if (read.kind !== "json" || typeof read.value !== "object" || read.value === null || Array.isArray(read.value)) return null;
  const names = Object.keys(read.value);
  return names.length > 0 && names.every((each) => ["usage", "span", "raised", "plain", "value"].includes(each)) ? (read.value as { usage?: Usage }) : null;
}

export function EntryDetails({ span, restart }: { span: Span; restart: (() => void) | null }) {
  const { entry, completion } = span;
  const result = completion?.result ?? entry.result;
  const known = span.kind === "model" || span.kind === "tool" ? record(result) : null;
  const parameter = (entry["parameter"] ?? entry["value"]) as string | undefined;
  return (
    <div className="stack">
      <dl className="facts">
        <dt>Entry</dt>
        <dd>
          {entry.index} <span className="muted">{entry.kind}</span>
        </dd>
        <dt>Began</dt>
        <dd>
          <Time at={entry.appended_at} />
        </dd>
        {span.kind !== "mark" && (
          <>
            <dt>Took</dt>
            <dd>{span.end === null ? <span className="muted">Not over</span> : duration(span.end - span.begin)}</dd>
          </>
        )}
        {typeof entry["wake_up_time"] === "number" && (
          <>
            <dt>Until</dt>
            <dd>
              <Time at={entry["wake_up_time"]} />
            </dd>
          </>
        )}
        {span.calls !== null && (
          <>
            <dt>Called</dt>
            <dd className="truncate">
              <Link to={path("invocations", span.calls)}>{span.calls}</Link>
            </dd>
          </>
        )}
        {known?.usage && <UsageFacts usage={known.usage} />}
      </dl>
      {parameter !== undefined && (
        <section className={css.part}>
          <h3>{entry.kind === "SetState" ? "Value" : "Input"}</h3>
          <Payload base64={parameter} label="input" />
        </section>
      )}
      {result !== undefined && (
        <section className={css.part}>
          <h3>{result.kind === "Failure" ? "Failure" : "Result"}</h3>
          {result.kind === "Failure" ? (
            <CodeBlock text={`[${String(result["code"])}] ${String(result["message"])}`} label="failure" />
          ) : known !== null ? (
            "raised" in known ? <JsonView value={known.raised} label="control flow" /> : <JsonView value={known.value ?? null} label="result" />
          ) : "content" in result ? (
            <Payload base64={result["content"] as string} label="result" />
          ) : (
            <span className="muted">{result.kind}</span>
          )}
        </section>
      )}
      {restart && (
        <Button icon="restart" onClick={restart}>
          Restart from here
        </Button>
      )}
    </div>
  );
}

function UsageFacts({ usage }: { usage: Usage }) {
  return (
    <>
      <dt>Model</dt>
      <dd>{usage.model ?? <span className="muted">–</span>}</dd>
      <dt>Tokens</dt>
      <dd>
        {count(usage.input_tokens ?? 0)} in{usage.cached_tokens ? ` (${count(usage.cached_tokens)} cached)` : ""}, {count(usage.output_tokens ?? 0)} out
      </dd>
      <dt>Cost</dt>
      <dd>
        {usage.cost === undefined ? <span className="muted">No price is known</span> : `$${usage.cost.toFixed(6)}`}{" "}
        {usage.prices && <span className="muted">prices of {usage.prices}</span>}
      </dd>
      {(usage.attempt ?? 1) > 1 && (
        <>
          <dt>Try</dt>
          <dd>
            {usage.attempt} <span className="muted">what earlier ones cost is not known</span>
          </dd>
        </>
      )}
    </>
  );
}
