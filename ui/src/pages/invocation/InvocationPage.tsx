/** One invocation: what it did and when, what it waits for, and what can be done about it. */

import { useMemo, useState } from "react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { get, request, segment } from "@/api/client";
import { every, LIVE } from "@/api/live";
import { query, text } from "@/api/sql";
import type { InvocationRow, ShownStatus } from "@/api/types";
import { useCommands } from "@/app/commands";
import { Page, Panel } from "@/app/Page";
import { Link, navigate, path, useParams, useSearch } from "@/app/router";
import { Button, CopyButton, Id } from "@/design/Button";
import { Confirm } from "@/design/Dialog";
import { CodeBlock, Payload } from "@/design/Json";
import { Empty, ErrorState, SkeletonLines } from "@/design/states";
import { Status, shownStatus } from "@/design/Status";
import { Tabs } from "@/design/Tabs";
import { Elapsed, Time } from "@/design/Time";
import { toast, toastError } from "@/design/toast";
import { count, plural } from "@/design/format";
import { spansOf, type Described, type Failure } from "./described";
import { EntryDetails } from "./EntryDetails";
import { Streams } from "./Streams";
import { Timeline } from "./Timeline";
import css from "./invocation.module.css";

type Tab = "timeline" | "streams" | "called" | "payloads";
type Action = "cancel" | "kill" | "pause" | "resume" | "restart";
type Brief = Pick<InvocationRow, "id" | "target" | "status" | "completion_result" | "completion_failure" | "created_at">;

const ROW = "id, target, status, completion_result, completion_failure, created_at";

export default function InvocationPage() {
  const { id = "" } = useParams();
  const [params, setParams] = useSearch();
  const found = useQuery({
    queryKey: ["invocation", id],
    queryFn: ({ signal }) => get<Described>(`/invocations/${segment(id)}`, signal),
    refetchInterval: (asked) => (asked.state.data?.status === "completed" ? false : every(LIVE.fast)(asked)),
  });
  const row = useQuery({
    queryKey: ["invocation", id, "row", found.data?.status],
    queryFn: async ({ signal }) => (await query<Brief>(`SELECT ${ROW} FROM sys_invocation WHERE id = ${text(id)}`, signal))[0] ?? null,
    refetchInterval: found.data?.status === "completed" ? false : every(LIVE.fast),
  });
  const data = found.data;
  const spans = useMemo(() => spansOf(data?.journal ?? []), [data]);
  const tab = (params.get("tab") ?? "timeline") as Tab;
  const chosen = params.get("entry") === null ? null : Number(params.get("entry"));
  const span = spans.find((each) => each.entry.index === chosen);
  const status: ShownStatus | null = row.data ? shownStatus(row.data) : null;
  const actions = useActions(data);
  if (found.error) {
    return (
      <Page title={id} trail={[{ title: "Invocations", to: "/invocations" }]}>
        <ErrorState error={found.error} retry={() => void found.refetch()} />
      </Page>
    );
  }
  return (
    <Page
      title={data?.target ?? id}
      trail={[{ title: "Invocations", to: "/invocations" }]}
      aside={
        <>
          {status && <Status status={status} />}
          <Id value={id} keep={14} />
          <CopyButton text={id} label="Copy the id" />
        </>
      }
      actions={actions.buttons}
    >
      {actions.dialog}
      {data === undefined ? (
        <Panel>
          <SkeletonLines lines={6} />
        </Panel>
      ) : (
        <>
          <Why of={data} status={status} />
          <Facts of={data} />
          <Tabs<Tab>
            label="What to look at"
            tabs={[
              { id: "timeline", label: "Timeline", count: spans.length },
              { id: "streams", label: "Streams" },
              { id: "called", label: "Called", count: spans.filter((each) => each.calls !== null).length },
              { id: "payloads", label: "Input and result" },
            ]}
            chosen={tab}
            onChoose={(each) => setParams({ tab: each === "timeline" ? null : each })}
          >
            {tab === "timeline" && (
              <div className={span ? `${css.beside} ${css.withDetails}` : css.beside}>
                <Panel flush title={plural(spans.length, "entry", "entries")}>
                  <Timeline of={data} spans={spans} chosen={chosen} onChoose={(index) => setParams({ entry: index === chosen ? null : String(index) })} />
                </Panel>
                {span && (
                  <Panel title={span.title}>
                    <EntryDetails span={span} restart={data.status === "completed" ? () => actions.restartFrom(span.entry.index) : null} />
                  </Panel>
                )}
              </div>
            )}
            {tab === "streams" && (
              <Panel>
                <Streams id={id} over={data.status === "completed"} />
              </Panel>
            )}
            {tab === "called" && <Called id={id} over={data.status === "completed"} />}
            {tab === "payloads" && <Payloads of={data} />}
          </Tabs>
        </>
      )}
    </Page>
  );
}

/** What it waits for or why it fails, in a sentence, before anything else. */
function Why({ of, status }: { of: Described; status: ShownStatus | null }) {
  const failure = of.last_failure ?? (of.result && "message" in of.result ? (of.result as Failure) : null);
  const waits = of.waiting_for;
  const open = spansOf(of.journal).filter((span) => span.end === null && waits?.completions?.includes(span.entry.completion_id ?? -1));
  const sentences: React.ReactNode[] = [];
  if (of.holder) {
    sentences.push(
      <>
        Waits for its object, which <Link to={path("invocations", of.holder)}>another invocation</Link> holds{of.ahead ? `; ${plural(of.ahead, "other")} before it` : ""}.
      </>,
    );
  }
  if (status === "backing-off" && of.retry_at) sentences.push(<>Failed {plural(of.failures ?? 1, "time")}, and is tried again <Time at={of.retry_at} />.</>);
  if (status === "paused") sentences.push(<>Paused: somebody has to resume it.</>);
  if (status === "suspended") {
    const what = open.map((span) => span.title);
    const signals = (waits?.signals ?? []).filter((each) => each !== 1).map((each) => (typeof each === "number" ? "an awakeable" : `the signal ${each}`));
    sentences.push(<>Waits for {[...what, ...signals].join(", ") || "something from outside"}, and takes no memory.</>);
  }
  if (sentences.length === 0 && failure === null) return null;
  return (
    <Panel>
      <div className="stack">
        {sentences.map((each, index) => (
          <p key={index}>{each}</p>
        ))}
        {failure && (
          <>
            <p className={css.bad}>
              [{failure.code}] {failure.message}
            </p>
            {failure.stacktrace && <CodeBlock text={failure.stacktrace} label="stack trace" />}
          </>
        )}
      </div>
    </Panel>
  );
}

function Facts({ of }: { of: Described }) {
  const usage = useQuery({
    queryKey: ["usage", of.id, of.journal.length],
    queryFn: async ({ signal }) =>
      (await query<{ calls: number; input: number; output: number; usd?: number }>(
        `SELECT COUNT(*) AS calls, SUM(input_tokens) AS input, SUM(output_tokens) AS output, SUM(cost) AS usd FROM sys_usage WHERE id = ${text(of.id)}`,
        signal,
      ))[0],
  });
  const spent = usage.data;
  return (
    <Panel>
      <dl className={`facts ${css.facts}`}>
        <div>
          <dt>Accepted</dt>
          <dd><Time at={of.created_at} /></dd>
        </div>
        <div>
          <dt>Took</dt>
          <dd>{of.started_at === null ? <span className="muted">Has not begun</span> : <Elapsed from={of.created_at} to={of.completed_at} />}</dd>
        </div>
        <div>
          <dt>Attempts</dt>
          <dd>{count(of.attempts)}</dd>
        </div>
        {spent !== undefined && spent.calls > 0 && (
          <div>
            <dt>Model calls</dt>
            <dd>
              {count(spent.calls)}{" "}
              <span className="muted">
                {count(spent.input + spent.output)} tokens{spent.usd === undefined ? "" : `, $${spent.usd.toFixed(4)}`}
              </span>
            </dd>
          </div>
        )}
        {of.caller && (
          <div>
            <dt>Called by</dt>
            <dd><Link to={path("invocations", of.caller)}>{of.caller.slice(0, 14)}…</Link></dd>
          </div>
        )}
        {of.restarted_from && (
          <div>
            <dt>Restart of</dt>
            <dd>
              <Link to={path("invocations", of.restarted_from)}>{of.restarted_from.slice(0, 14)}…</Link>{" "}
              <Link to={path("invocations", of.id, "compare", of.restarted_from)}>compare</Link>
            </dd>
          </div>
        )}
        {of.idempotency_key && (
          <div>
            <dt>Idempotency key</dt>
            <dd className="truncate" title={of.idempotency_key}>{of.idempotency_key}</dd>
          </div>
        )}
        <div>
          <dt>Runs in</dt>
          <dd>{of.deployment ? <span className="mono">{of.deployment}</span> : "the server's process"}</dd>
        </div>
      </dl>
    </Panel>
  );
}

function Called({ id, over }: { id: string; over: boolean }) {
  const rows = useQuery({
    queryKey: ["called", id],
    queryFn: ({ signal }) => query<Brief>(`SELECT ${ROW} FROM sys_invocation WHERE invoked_by_id = ${text(id)} ORDER BY created_at LIMIT 500`, signal),
    refetchInterval: over ? false : every(LIVE.normal),
  });
  return (
    <Panel flush>
      {rows.error ? (
        <ErrorState error={rows.error} retry={() => void rows.refetch()} />
      ) : rows.data === undefined ? (
        <SkeletonLines lines={3} />
      ) : rows.data.length === 0 ? (
        <Empty title="It called nothing">Calls and sends of this handler would be here, with where they stand.</Empty>
      ) : (
        <div className="scroll-x">
          <table className="list">
            <thead>
              <tr>
                <th scope="col">Target</th>
                <th scope="col">Status</th>
                <th scope="col">Accepted</th>
              </tr>
            </thead>
            <tbody>
              {rows.data.map((each) => (
                <tr key={each.id}>
                  <td className="truncate"><Link to={path("invocations", each.id)}>{each.target}</Link></td>
                  <td><Status status={shownStatus(each)} /></td>
                  <td><Time at={each.created_at} /></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Panel>
  );
}

function Payloads({ of }: { of: Described }) {
  const input = of.journal.find((entry) => entry.kind === "Input");
  return (
    <div className={css.payloads}>
      <Panel title="Input">
        {input ? <Payload base64={input["value"] as string} label="input" /> : <span className="muted">The journal is no longer kept</span>}
      </Panel>
      <Panel title="Result">
        {of.result === undefined ? (
          <span className="muted">Not there yet</span>
        ) : "content" in of.result ? (
          <Payload base64={of.result.content} label="result" />
        ) : (
          <CodeBlock text={`[${of.result.code}] ${of.result.message}`} label="failure" />
        )}
      </Panel>
    </div>
  );
}

const ASKS: Record<Action, { title: string; about: string; danger?: boolean; done: string }> = {
  cancel: { title: "Cancel", about: "Its handler is told, and may clean up; so are the handlers that it has called.", danger: true, done: "It is being cancelled" },
  kill: { title: "Kill", about: "It ends at once, and so does what it has called. Nothing of it is cleaned up.", danger: true, done: "Killed" },
  pause: { title: "Pause", about: "It comes to rest, and goes on when somebody resumes it.", done: "It is being paused" },
  resume: { title: "Resume", about: "It goes on now.", done: "Resumed" },
  restart: { title: "Restart", about: "A new invocation does the same again. This one stays as it is.", done: "Restarted" },
};

function useActions(of: Described | undefined) {
  const [asked, setAsked] = useState<{ action: Action; from?: number } | null>(null);
  const client = useQueryClient();
  const act = useMutation({
    mutationFn: async ({ action, from }: { action: Action; from?: number }) => {
      const base = `/invocations/${segment(of?.id ?? "")}`;
      if (action !== "restart") return request<undefined>(`${base}/${action}`, { method: "PATCH" });
      return request<{ new_invocation_id: string }>(`${base}/restart-as-new${from ? `?from=${from}` : ""}`, { method: "PATCH" });
    },
    onSuccess: (answer, { action }) => {
      toast(ASKS[action].done);
      setAsked(null);
      void client.invalidateQueries({ queryKey: ["invocation", of?.id] });
      if (answer) navigate(path("invocations", answer.new_invocation_id));
    },
    onError: (error) => {
      toastError(error);
      setAsked(null);
    },
  });
  const over = of?.status === "completed";
  const possible: Action[] = of === undefined ? [] : over ? ["restart"] : [of.status === "paused" ? "resume" : "pause", "cancel", "kill"];
  if (of !== undefined && (of.status === "backing-off" || of.last_failure !== null) && !over && !possible.includes("resume")) possible.unshift("resume");
  useCommands(possible.map((action) => ({ id: `invocation-${action}`, title: `${ASKS[action].title} this invocation`, section: "Invocation", run: () => setAsked({ action }) })));
  return {
    restartFrom: (from: number) => setAsked({ action: "restart", from }),
    buttons: (
      <>
        {possible.map((action) => (
          <Button key={action} kind={action === "kill" ? "danger" : "default"} onClick={() => setAsked({ action })}>
            {ASKS[action].title}
          </Button>
        ))}
      </>
    ),
    dialog: asked && (
      <Confirm
        title={`${ASKS[asked.action].title} ${of?.target ?? ""}?`}
        action={ASKS[asked.action].title}
        danger={ASKS[asked.action].danger ?? false}
        busy={act.isPending}
        onConfirm={() => act.mutate(asked)}
        onClose={() => setAsked(null)}
      >
        <p>{ASKS[asked.action].about}</p>
        {asked.from !== undefined && asked.from > 0 && <p>It keeps the first {plural(asked.from, "entry", "entries")} of the journal: what they did is not done again.</p>}
      </Confirm>
    ),
  };
}
