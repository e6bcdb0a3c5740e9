/** The waterfall: a row for each thing the handler did, and when. */

import { useMemo, useRef } from "react";
import { Elapsed, useNow } from "@/design/Time";
import { duration } from "@/design/format";
import { ticks, type Described, type Span, type SpanKind } from "./described";
import css from "./invocation.module.css";

const KIND_TEXT: Record<SpanKind, string> = { model: "Model", tool: "Tool", step: "Step", call: "Call", wait: "Wait", mark: "" };

export function Timeline({ of, spans, chosen, onChoose }: { of: Described; spans: readonly Span[]; chosen: number | null; onChoose: (index: number) => void }) {
  const now = useNow();
  const list = useRef<HTMLOListElement>(null);
  const begin = Math.min(Date.parse(of.created_at), spans[0]?.begin ?? Infinity);
  const end = of.completed_at === undefined ? now : Date.parse(of.completed_at);
  const length = Math.max(1, end - begin);
  const axis = useMemo(() => ticks(length, 4), [length]);
  const at = (ms: number) => `${Math.min(100, Math.max(0, ((ms - begin) / length) * 100))}%`;
  const move = (event: React.KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step === undefined) return;
    const buttons = [...(list.current?.querySelectorAll("button") ?? [])];
    buttons[buttons.indexOf(document.activeElement as HTMLButtonElement) + step]?.focus();
    event.preventDefault();
  };
  return (
    <div className={css.timeline}>
      <div className={css.axis} aria-hidden="true">
        <div className={css.scale}>
          {axis.map((each) => (
            <span key={each} className={each / length > 0.9 ? css.last : undefined} style={{ left: at(begin + each) }}>
              {each === 0 ? "0" : duration(each)}
            </span>
          ))}
        </div>
      </div>
      <ol ref={list} className={css.rows} onKeyDown={move} aria-label="What the handler did">
        {spans.map((span) => {
          const open = span.end === null && of.completed_at === undefined;
          const until = span.end ?? (open ? end : span.begin);
          return (
            <li key={span.entry.index}>
              <button
                type="button"
                className={css.spanRow}
                aria-pressed={chosen === span.entry.index}
                onClick={() => onChoose(span.entry.index)}
                title={`${span.title}\nEntry ${span.entry.index}`}
              >
                <span className={`${css.spanTitle} truncate`}>
                  {KIND_TEXT[span.kind] && <span className={`${css.kind} ${css[span.kind]}`}>{KIND_TEXT[span.kind]}</span>}
                  <span className="truncate">{span.kind === "model" || span.kind === "tool" ? span.title.replace(/^\w+ /, "") : span.title}</span>
                </span>
                <span className={css.track} aria-hidden="true">
                  {axis.slice(1).map((each) => (
                    <i key={each} className={css.grid} style={{ left: at(begin + each) }} />
                  ))}
                  <b
                    className={[css.bar, css[span.kind], span.failed && css.failed, open && css.open].filter(Boolean).join(" ")}
                    style={{ left: at(span.begin), width: span.kind === "mark" ? undefined : `max(3px, calc(${at(until)} - ${at(span.begin)}))` }}
                  />
                </span>
                <span className={css.took}>
                  {span.failed && <span className={css.bad}>failed </span>}
                  {span.kind === "mark" ? "" : open ? <Elapsed from={span.entry.appended_at} /> : span.end === null ? "never" : duration(span.end - span.begin)}
                </span>
              </button>
            </li>
          );
        })}
      </ol>
    </div>
  );
}
