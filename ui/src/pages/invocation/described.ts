/** An invocation as `GET /invocations/{id}` tells it, and its journal as spans of time. */

import type { InvocationStatus } from "@/api/types";

export interface Failure {
  message: string;
  code: number;
  at?: string;
  stacktrace?: string;
}

export type EntryResult = { kind: "Value"; content: string } | ({ kind: "Failure" } & Failure) | { kind: string; [more: string]: unknown };

export interface Entry {
  index: number;
  appended_at: string;
  kind: string;
  name?: string;
  completion_id?: number;
  result?: EntryResult;
  [more: string]: unknown;
}

export interface Described {
  id: string;
  target: string;
  service: string;
  handler: string;
  key: string | null;
  status: InvocationStatus | "inboxed" | "invoked";
  last_failure: Failure | null;
  result?: { content: string } | Failure;
  retry_at?: string;
  failures?: number;
  waiting_for?: { completions?: number[]; signals?: (number | string)[] };
  created_at: string;
  started_at: string | null;
  completed_at?: string;
  attempts: number;
  idempotency_key: string | null;
  caller: string | null;
  restarted_from: string | null;
  deployment: string | null;
  ahead: number | null;
  holder: string | null;
  journal: Entry[];
}

export type SpanKind = "model" | "tool" | "step" | "call" | "wait" | "mark";

export interface Span {
  entry: Entry;
  kind: SpanKind;
  title: string;
  /** ms since the epoch; `end` is null while it is open. A mark has no length. */
  begin: number;
  end: number | null;
  completion: Entry | null;
  failed: boolean;
  /** Of a call: whom it made. */
  calls: string | null;
}

const WAITS = new Set(["Sleep", "GetPromise", "AttachInvocation", "GetInvocationOutput", "GetLazyState", "GetLazyStateKeys", "PeekPromise", "CompletePromise"]);

function titleOf(entry: Entry): string {
  const of = (name: string) => (typeof entry[name] === "string" ? (entry[name] as string) : "");
  switch (entry.kind) {
    case "Run":
      return entry.name || "step";
    case "Call":
    case "OneWayCall": {
      const target = [of("service"), of("key"), of("handler")].filter(Boolean).join("/");
      return entry.kind === "Call" ? target : `send ${target}`;
    }
    case "Sleep":
      return "sleep";
    case "GetPromise":
    case "PeekPromise":
    case "CompletePromise":
      return `${{ GetPromise: "wait for promise", PeekPromise: "look at promise", CompletePromise: "complete promise" }[entry.kind]} ${of("key")}`;
    case "SetState":
      return `set ${of("key")}`;
    case "ClearState":
      return `clear ${of("key")}`;
    case "GetLazyState":
    case "GetEagerState":
      return `get ${of("key")}`;
    case "Signal":
      return `signal ${String(entry["signal"])}`;
    default:
      return entry.kind.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();
  }
}

function kindOf(entry: Entry): SpanKind {
  if (entry.kind === "Run") {
    if (entry.name?.startsWith("model ")) return "model";
    return entry.name?.startsWith("tool ") ? "tool" : "step";
  }
  if (entry.kind === "Call") return "call";
  return WAITS.has(entry.kind) ? "wait" : "mark";
}

/** What the handler did, in order. The answers to commands are not rows of their own: they end them. */
export function spansOf(journal: readonly Entry[]): Span[] {
  const answers = new Map<number, Entry>();
  for (const entry of journal) if (entry.kind === "Completion" && entry.completion_id !== undefined) answers.set(entry.completion_id, entry);
  return journal
    .filter((entry) => entry.kind !== "Completion")
    .map((entry) => {
      const kind = kindOf(entry);
      const begin = Date.parse(entry.appended_at);
      const completion = entry.completion_id === undefined ? null : (answers.get(entry.completion_id) ?? null);
      const callee = answers.get(entry["invocation_id_completion_id"] as number)?.result;
      const result = completion?.result ?? entry.result;
      return {
        entry,
        kind,
        title: titleOf(entry),
        begin,
        end: kind === "mark" ? begin : completion === null ? null : Date.parse(completion.appended_at),
        completion,
        failed: result?.kind === "Failure",
        calls: callee !== undefined && "invocation_id" in callee ? String(callee["invocation_id"]) : null,
      };
    });
}

/** Round times for an axis of that length: at most `most` of them, ms. */
export function ticks(length: number, most: number): number[] {
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 72e5, 216e5, 432e5, 864e5, 1728e5, 6048e5];
  const step = steps.find((each) => length / each <= most) ?? Math.ceil(length / most / 864e5) * 864e5;
  return Array.from({ length: Math.floor(length / step) + 1 }, (_, index) => index * step);
}
