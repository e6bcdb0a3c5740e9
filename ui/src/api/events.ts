/** Server-sent events by fetch: `EventSource` cannot send an API key. */

import { errorOf, fetchRaw, type RequestOptions } from "./client";

export interface ServerEvent {
  event: string;
  data: string;
  id: string;
}

/** Takes the text as it comes, in pieces cut anywhere, and gives whole events. */
export class EventParser {
  private rest = "";
  private id = "";

  push(piece: string): ServerEvent[] {
    const blocks = (this.rest + piece).replaceAll("\r\n", "\n").split("\n\n");
    this.rest = blocks.pop() ?? "";
    return blocks.flatMap((block) => this.parse(block));
  }

  private parse(block: string): ServerEvent[] {
    let event = "message";
    const data: string[] = [];
    for (const line of block.split("\n")) {
      const at = line.indexOf(":");
      const name = at < 0 ? line : line.slice(0, at);
      const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
      if (name === "event") event = value;
      else if (name === "data") data.push(value);
      else if (name === "id") this.id = value;
    }
    return data.length === 0 ? [] : [{ event, data: data.join("\n"), id: this.id }];
  }
}

/** The events of one response, until it ends. Rejects with `ApiError` if it is an error; 204 has none. */
export async function* events(path: string, options: RequestOptions = {}): AsyncGenerator<ServerEvent> {
  const headers = { accept: "text/event-stream", ...options.headers };
  const response = await fetchRaw(path, { ...options, headers });
  if (!response.ok) throw await errorOf(response);
  if (response.body === null) return;
  const parser = new EventParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/** What a stream of an invocation holds: its valid chunks by position (docs/streaming.md). */
export interface StreamState {
  chunks: ReadonlyMap<number, unknown>;
  ended: null | { status: "succeeded" | "failed"; code?: number; message?: string };
}

const pause = (ms: number, signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });

/**
 * Reads a stream to its end, coming back when the connection breaks, and tells `show` of each change. `path` is
 * `/invocations/{id}/streams/{name}`.
 */
export async function followStream(
  path: string,
  show: (state: StreamState) => void,
  signal: AbortSignal,
): Promise<void> {
  const chunks = new Map<number, unknown>();
  let ended: StreamState["ended"] = null;
  let last = "";
  while (!signal.aborted && ended === null) {
    const headers: Record<string, string> = last === "" ? {} : { "last-event-id": last };
    let any = false;
    try {
      for await (const each of events(path, { headers, signal })) {
        any = true;
        last = each.id || last;
        const position = Number(/(-?\d+)(\.end)?$/.exec(each.id)?.[1]);
        if (each.event === "regenerated") {
          const { from } = JSON.parse(each.data) as { from: number };
          for (const known of chunks.keys()) if (known >= from) chunks.delete(known);
        } else if (each.event === "end") ended = JSON.parse(each.data) as StreamState["ended"];
        else if (each.event === "bytes") chunks.set(position, each.data);
        else if (each.event === "message") chunks.set(position, JSON.parse(each.data));
        show({ chunks: new Map(chunks), ended });
        if (ended !== null) return;
      }
      if (!any && last !== "") return; // 204: all of it was seen
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Error && "passing" in error && error.passing)) throw error;
    }
    await pause(1000, signal);
  }
}
