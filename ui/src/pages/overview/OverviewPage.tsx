import { useMemo } from "react";
import { useQuery } from "@tanstack/react-query";
import { get } from "@/api/client";
import { every, LIVE } from "@/api/live";
import { useOverview, useServices } from "@/api/queries";
import { query } from "@/api/sql";
import type { HandlerNumbers, InvocationRow, Overview, ShownStatus } from "@/api/types";
import { Page, Panel } from "@/app/Page";
import { Link, path } from "@/app/router";
import { Chart, Sparkline } from "@/design/Chart";
import { Empty, ErrorState, Skeleton, SkeletonLines } from "@/design/states";
import { Status, StatusIcon, shownStatus, STATUS_TEXT } from "@/design/Status";
import { Time } from "@/design/Time";
import { bytes, compact, count, duration, rate } from "@/design/format";
import css from "./Overview.module.css";

const FIGURES: readonly { status: ShownStatus; about: string }[] = [
  { status: "running", about: "An attempt runs now" },
  { status: "ready", about: "Wait for room to run" },
  { status: "pending", about: "Wait for their object's lock" },
  { status: "backing-off", about: "Failed, and are tried again" },
  { status: "paused", about: "Somebody has to resume them" },
  { status: "suspended", about: "Wait, and take no memory" },
  { status: "scheduled", about: "Begin later" },
];

export default function OverviewPage() {
  const overview = useOverview();
  const data = overview.data;
  return (
    <Page title="Overview">
      {overview.error && <ErrorState error={overview.error} retry={() => void overview.refetch()} />}
      <Figures data={data} />
      <div className={css.charts}>
        <Panel title="Throughput" aside={<Now data={data} />}>
          <Throughput data={data} />
        </Panel>
        <Panel title="Latency" aside={<span className="muted">From acceptance to the end</span>}>
          <Latency data={data} />
        </Panel>
      </div>
      <Troubled />
      <Handlers data={data} />
      <div className={css.charts}>
        <Server data={data} />
        <Deployments />
      </div>
    </Page>
  );
}

function Figures({ data }: { data: Overview | undefined }) {
  return (
    <ul className={css.figures} aria-label="Invocations that are not completed">
      {FIGURES.map(({ status, about }) => {
        const value = data?.statuses?.[status];
        return (
          <li key={status}>
            <Link to={`/invocations?status=${status}`} className={css.figure} title={about}>
              <span className={css.label}>
                <StatusIcon status={status} />
                {STATUS_TEXT[status]}
              </span>
              <span className={value === 0 ? `${css.value} ${css.none}` : css.value}>
                {value === undefined ? <Skeleton width={3} /> : <span title={count(value)}>{compact(value)}</span>}
              </span>
            </Link>
          </li>
        );
      })}
    </ul>
  );
}

const perSecond = (values: readonly number[], ms: number) => values.map((each) => (each * 1000) / ms);

const SHOWN = 60; // points at least, so that the first minutes do not look like an hour

/** The history as it is drawn: filled up at its beginning with intervals of which nothing is known. */
export function padded(history: Overview["history"]): Overview["history"] {
  const missing = SHOWN - history.times.length;
  const first = history.times[0];
  if (missing <= 0 || first === undefined) return history;
  const none = Array.from({ length: missing }, () => null);
  const zero = Array.from({ length: missing }, () => 0);
  return {
    ...history,
    times: [...zero.map((_, index) => first - (missing - index) * history.interval_ms), ...history.times],
    succeeded: [...zero, ...history.succeeded],
    failed: [...zero, ...history.failed],
    p50: [...none, ...history.p50],
    p95: [...none, ...history.p95],
    p99: [...none, ...history.p99],
  };
}

function Now({ data }: { data: Overview | undefined }) {
  if (!data || data.history.times.length === 0) return null;
  const { succeeded, failed, interval_ms } = data.history;
  const last = ((succeeded.at(-1) ?? 0) + (failed.at(-1) ?? 0)) * (1000 / interval_ms);
  return <span className="muted">{rate(last)} a second</span>;
}

function Coming({ data }: { data: Overview | undefined }) {
  if (data === undefined) return <Skeleton width="100%" height={166} />;
  return (
    <Empty title="The first numbers come in a moment">
      The server keeps them for an hour, in steps of {duration(data.history.interval_ms)}.
    </Empty>
  );
}

function Throughput({ data }: { data: Overview | undefined }) {
  const history = useMemo(() => data && padded(data.history), [data]);
  const series = useMemo(() => {
    if (!history) return [];
    const { succeeded, failed, interval_ms } = history;
    return [
      { name: "Succeeded", color: "var(--chart-1)", values: perSecond(succeeded, interval_ms) },
      { name: "Failed", color: "var(--chart-bad)", values: perSecond(failed, interval_ms) },
    ];
  }, [history]);
  if (!data || !history || data.history.times.length < 2) return <Coming data={data} />;
  return <Chart label="Invocations that ended, a second" kind="bars" times={history.times} series={series} format={rate} />;
}

function Latency({ data }: { data: Overview | undefined }) {
  const history = useMemo(() => data && padded(data.history), [data]);
  const series = useMemo(() => {
    if (!history) return [];
    const { p50, p95, p99 } = history;
    return [
      { name: "Median", color: "var(--chart-1)", values: p50 },
      { name: "95 %", color: "var(--chart-2)", values: p95, dash: "5 3" },
      { name: "99 %", color: "var(--chart-3)", values: p99, dash: "1.5 3" },
    ];
  }, [history]);
  if (!data || !history || data.history.times.length < 2) return <Coming data={data} />;
  return <Chart label="How long invocations took" times={history.times} series={series} format={duration} />;
}

type TroubledRow = Pick<InvocationRow, "id" | "target" | "status" | "modified_at" | "last_failure" | "retry_count" | "next_retry_at" | "completion_result" | "completion_failure">;

const TROUBLED = `SELECT id, target, status, modified_at, last_failure, retry_count, next_retry_at FROM sys_invocation
  WHERE status IN ('running', 'backing-off', 'paused') AND (last_failure IS NOT NULL OR status = 'paused')
  ORDER BY modified_at DESC LIMIT 8`;

function Troubled() {
  const rows = useQuery({ queryKey: ["troubled"], queryFn: ({ signal }) => query<TroubledRow>(TROUBLED, signal), refetchInterval: every(LIVE.normal) });
  return (
    <Panel title="Needs attention" flush aside={<Link to="/invocations?status=backing-off&status=paused">All of them</Link>}>
      {rows.error ? (
        <div className={css.inset}>
          <ErrorState error={rows.error} retry={() => void rows.refetch()} />
        </div>
      ) : rows.data === undefined ? (
        <div className={css.inset}>
          <SkeletonLines lines={4} />
        </div>
      ) : rows.data.length === 0 ? (
        <Empty title="Nothing fails">Invocations that are retried or paused would be here, with their last failure.</Empty>
      ) : (
        <ul>
          {rows.data.map((row) => (
            <li key={row.id}>
              <Link to={path("invocations", row.id)} className={css.trouble}>
                <span className={css.troubleStatus}>
                  <Status status={shownStatus(row)} />
                </span>
                <span className={`${css.troubleTarget} truncate`} title={row.target}>
                  {row.target}
                </span>
                <span className={`${css.troubleWhy} truncate`} title={row.last_failure}>
                  {row.last_failure ?? "Paused by somebody"}
                </span>
                <span className={css.troubleWhen}>
                  {row.next_retry_at !== undefined && row.status === "backing-off" ? (
                    <>
                      Retry <Time at={row.next_retry_at} />
                    </>
                  ) : (
                    <Time at={row.modified_at} />
                  )}
                </span>
              </Link>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}

function Handlers({ data }: { data: Overview | undefined }) {
  const services = useServices();
  const rows = useMemo(() => {
    const known = new Map((data?.handlers ?? []).map((each) => [`${each.service}/${each.handler}`, each]));
    const quiet = (services.data ?? []).flatMap((service) =>
      service.handlers
        .filter((handler) => !known.has(`${service.name}/${handler.name}`))
        .map((handler): HandlerNumbers => ({
          service: service.name, handler: handler.name, running: 0, succeeded: 0, failed: 0, step_failures: 0, attempts_failed: 0, p50: null, p95: null, ended: [],
        })),
    );
    const total = (each: HandlerNumbers) => each.running * 1e9 + each.succeeded + each.failed;
    return [...known.values(), ...quiet].filter((each) => !each.service.startsWith("Perdure")).sort((a, b) => total(b) - total(a));
  }, [data, services.data]);
  return (
    <Panel title="Handlers" flush aside={<span className="muted">Since the server started</span>}>
      {data === undefined || services.data === undefined ? (
        <div className={css.inset}>
          <SkeletonLines lines={5} />
        </div>
      ) : rows.length === 0 ? (
        <Empty title="No services yet">
          Start the server with an app, <code>perdure serve module:app</code>, or <Link to="/deployments">register a deployment</Link>.
        </Empty>
      ) : (
        <div className="scroll-x">
          <table className={`list ${css.handlers}`}>
            <thead>
              <tr>
                <th scope="col">Handler</th>
                <th scope="col">Last hour</th>
                <th scope="col" className="num">Running</th>
                <th scope="col" className="num">Succeeded</th>
                <th scope="col" className="num">Failed</th>
                <th scope="col" className="num" title="Tries of steps that failed and were followed by another">Failed tries</th>
                <th scope="col" className="num">Median</th>
                <th scope="col" className="num">95 %</th>
              </tr>
            </thead>
            <tbody>
              {rows.slice(0, 50).map((each) => (
                <HandlerRow key={`${each.service}/${each.handler}`} numbers={each} />
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Panel>
  );
}

function HandlerRow({ numbers }: { numbers: HandlerNumbers }) {
  const { service, handler, running, succeeded, failed, step_failures, p50, p95, ended } = numbers;
  const number = (value: number) => <span className={value === 0 ? "muted" : undefined}>{compact(value)}</span>;
  return (
    <tr>
      <td className={css.handler}>
        <Link to={`/invocations?service=${encodeURIComponent(service)}&handler=${encodeURIComponent(handler)}`} title={`${service}/${handler}`}>
          <span className="muted">{service}/</span>
          {handler}
        </Link>
      </td>
      <td>
        <Sparkline values={ended.length > 1 ? ended : [0, 0]} label={`${count(ended.reduce((sum, each) => sum + each, 0))} ended in the last hour`} />
      </td>
      <td className="num">{number(running)}</td>
      <td className="num">{number(succeeded)}</td>
      <td className="num">{failed > 0 ? <Link to={`/invocations?status=failed&service=${encodeURIComponent(service)}&handler=${encodeURIComponent(handler)}`} className={css.bad}>{compact(failed)}</Link> : number(0)}</td>
      <td className="num">{number(step_failures)}</td>
      <td className="num">{p50 === null ? <span className="muted">–</span> : duration(p50)}</td>
      <td className="num">{p95 === null ? <span className="muted">–</span> : duration(p95)}</td>
    </tr>
  );
}

function Server({ data }: { data: Overview | undefined }) {
  const lag = data?.history.loop_lag.at(-1);
  return (
    <Panel title="Server">
      {data === undefined ? (
        <SkeletonLines lines={4} />
      ) : (
        <dl className="facts">
          <dt>Storage</dt>
          <dd>
            {bytes(Object.values(data.storage).reduce((sum, each) => sum + each, 0))}{" "}
            <span className="muted">of which {bytes(data.storage["wal"] ?? 0)} log</span>
          </dd>
          <dt>Attempts</dt>
          <dd>
            {count(data.attempts.running)} live{" "}
            <span className="muted">
              {count(data.attempts.elsewhere)} on deployments, {count(data.attempts.waiting)} wait for room
            </span>
          </dd>
          <dt>Commands queued</dt>
          <dd>{count(data.queued)}</dd>
          <dt>Event loop</dt>
          <dd>{lag == null ? <span className="muted">–</span> : `late by ${duration(lag)} at most`}</dd>
          <dt>Started</dt>
          <dd>
            <Time at={data.started_at} /> <span className="muted">perdure {data.version}</span>
          </dd>
        </dl>
      )}
    </Panel>
  );
}

interface DeploymentInfo {
  id: string;
  uri?: string;
  arn?: string;
  services: { name: string; revision: number }[];
}

function Deployments() {
  const found = useQuery({
    queryKey: ["deployments"],
    queryFn: async ({ signal }) => (await get<{ deployments: DeploymentInfo[] }>("/deployments", signal)).deployments,
    refetchInterval: every(LIVE.slow),
  });
  return (
    <Panel title="Deployments" aside={<Link to="/deployments">All of them</Link>}>
      {found.error ? (
        <ErrorState error={found.error} retry={() => void found.refetch()} />
      ) : found.data === undefined ? (
        <SkeletonLines lines={3} />
      ) : (
        <dl className="facts">
          {found.data.slice(0, 6).map((each) => (
            <div key={each.id} className={css.deployment}>
              <dt className="truncate" title={each.uri ?? each.arn}>
                {each.uri || each.arn ? <Link to={path("deployments", each.id)}>{each.uri ?? each.arn}</Link> : "In this process"}
              </dt>
              <dd className="muted truncate" title={each.services.map((service) => service.name).join(", ")}>
                {each.services.map((service) => service.name).join(", ") || "No services"}
              </dd>
            </div>
          ))}
          {found.data.length === 0 && <dd className="muted">None is registered</dd>}
        </dl>
      )}
    </Panel>
  );
}
