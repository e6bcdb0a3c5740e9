/** SQL over all that is stored and running: docs/sql.md. */

import { useEffect, useRef, useState } from "react";
import { useMutation, useQuery } from "@tanstack/react-query";
import { query, type Row } from "@/api/sql";
import { Page, Panel } from "@/app/Page";
import { Link, path, useSearch } from "@/app/router";
import { Button } from "@/design/Button";
import { Empty, ErrorState, SkeletonLines } from "@/design/states";
import { toast } from "@/design/toast";
import { duration, plural } from "@/design/format";
import css from "./sql.module.css";

const EXAMPLES: readonly { title: string; sql: string }[] = [
  { title: "What is stuck, and why", sql: "SELECT id, target, status, retry_count, last_failure FROM sys_invocation\nWHERE status IN ('backing-off', 'paused') ORDER BY modified_at DESC LIMIT 50" },
  { title: "How much there is of everything", sql: "SELECT target_service_name, status, COUNT(*) AS n FROM sys_invocation GROUP BY 1, 2 ORDER BY 1, 2" },
  { title: "What models cost, by service", sql: "SELECT target_service_name, model, COUNT(*) AS calls, SUM(input_tokens) AS input, SUM(output_tokens) AS output, SUM(cost) AS usd\nFROM sys_usage GROUP BY 1, 2 ORDER BY usd DESC NULLS LAST" },
  { title: "Objects for which most are waiting", sql: "SELECT service_name, service_key, COUNT(*) AS waiting FROM sys_inbox GROUP BY 1, 2 ORDER BY waiting DESC LIMIT 20" },
];
const SAVED = "perdure.sql";
const MOST = 1000;

interface Answer {
  rows: Row[];
  took: number;
}

function saved(): { title: string; sql: string }[] {
  try {
    return JSON.parse(localStorage.getItem(SAVED) ?? "[]") as { title: string; sql: string }[];
  } catch {
    return [];
  }
}

export default function SqlPage() {
  const [params, setParams] = useSearch();
  const [sql, setSql] = useState(params.get("q") ?? EXAMPLES[0]!.sql);
  const [kept, setKept] = useState(saved);
  const stop = useRef<AbortController | null>(null);
  const tables = useQuery({
    queryKey: ["tables"],
    queryFn: ({ signal }) =>
      query<{ table_name: string; columns: number }>(
        "SELECT table_name, COUNT(*) AS columns FROM information_schema.columns WHERE table_schema = 'public' GROUP BY 1 ORDER BY 1",
        signal,
      ),
    staleTime: Infinity,
  });
  const run = useMutation({
    mutationFn: async (text: string): Promise<Answer> => {
      stop.current?.abort();
      stop.current = new AbortController();
      const began = performance.now();
      const rows = await query(text, stop.current.signal);
      return { rows, took: performance.now() - began };
    },
  });
  const start = (text: string) => {
    setParams({ q: text });
    run.mutate(text);
  };
  useEffect(() => {
    if (params.get("q")) run.mutate(params.get("q")!);
    return () => stop.current?.abort();
    // Only what the address says when the page is opened.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, []);
  const keep = (list: { title: string; sql: string }[]) => {
    setKept(list);
    localStorage.setItem(SAVED, JSON.stringify(list));
  };
  const save = () => {
    const title = sql.trim().split("\n")[0]!.slice(0, 60);
    keep([{ title, sql }, ...kept.filter((each) => each.sql !== sql)].slice(0, 50));
    toast("Saved in this browser");
  };
  return (
    <Page title="SQL">
      <div className={css.beside}>
        <div className="stack">
          <Panel>
            <div className="stack">
              <textarea
                className={`input mono ${css.editor}`}
                aria-label="Query"
                spellCheck={false}
                rows={7}
                value={sql}
                onChange={(event) => setSql(event.target.value)}
                onKeyDown={(event) => {
                  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start(sql);
                }}
              />
              <div className="row">
                <Button kind="primary" icon="play" busy={run.isPending} onClick={() => start(sql)}>
                  Run
                </Button>
                <Button onClick={save}>Save</Button>
                <span className="muted">Ctrl-Enter runs it. Nothing can be changed by SQL.</span>
              </div>
            </div>
          </Panel>
          <Panel flush {...(run.data ? { title: `${plural(run.data.rows.length, "row")} in ${duration(run.data.took)}` } : {})}>
            {run.isPending ? (
              <div className={css.inset}><SkeletonLines lines={4} /></div>
            ) : run.error ? (
              <div className={css.inset}><ErrorState error={run.error} /></div>
            ) : run.data === undefined ? (
              <Empty title="No query was run yet" />
            ) : run.data.rows.length === 0 ? (
              <Empty title="No rows" />
            ) : (
              <Rows rows={run.data.rows} />
            )}
          </Panel>
        </div>
        <div className="stack">
          {kept.length > 0 && (
            <Panel title="Saved" aside={<Button small onClick={() => keep([])}>Forget all</Button>}>
              <Choices of={kept} onChoose={(each) => (setSql(each), start(each))} />
            </Panel>
          )}
          <Panel title="Worth asking">
            <Choices of={EXAMPLES} onChoose={(each) => (setSql(each), start(each))} />
          </Panel>
          <Panel title="Tables">
            {tables.error ? (
              <ErrorState error={tables.error} retry={() => void tables.refetch()} />
            ) : tables.data === undefined ? (
              <SkeletonLines lines={5} />
            ) : (
              <Choices
                of={tables.data.map((each) => ({ title: each.table_name, sql: `SELECT * FROM ${each.table_name} LIMIT 100` }))}
                onChoose={(each) => (setSql(each), start(each))}
              />
            )}
          </Panel>
        </div>
      </div>
    </Page>
  );
}

function Choices({ of, onChoose }: { of: readonly { title: string; sql: string }[]; onChoose: (sql: string) => void }) {
  return (
    <ul className={css.choices}>
      {of.map((each) => (
        <li key={each.sql}>
          <button type="button" className={`${css.choice} truncate`} title={each.sql} onClick={() => onChoose(each.sql)}>
            {each.title}
          </button>
        </li>
      ))}
    </ul>
  );
}

function Rows({ rows }: { rows: Row[] }) {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const numeric = new Set(columns.filter((name) => rows.every((row) => row[name] === undefined || typeof row[name] === "number")));
  return (
    <div className="scroll-x">
      <table className="list">
        <thead>
          <tr>
            {columns.map((name) => (
              <th key={name} scope="col" className={numeric.has(name) ? "num" : undefined}>
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.slice(0, MOST).map((row, index) => (
            <tr key={index}>
              {columns.map((name) => (
                <td key={name} className={numeric.has(name) ? "num" : css.cell}>
                  <Cell value={row[name]} />
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      {rows.length > MOST && <p className={`muted ${css.inset}`}>The first {MOST} rows are shown.</p>}
    </div>
  );
}

function Cell({ value }: { value: unknown }) {
  if (value === undefined || value === null) return <span className="muted">–</span>;
  const shown = typeof value === "string" ? value : typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(9))) : JSON.stringify(value);
  if (shown.startsWith("inv_1")) return <Link to={path("invocations", shown)} className="mono">{shown}</Link>;
  return <span title={shown.length > 60 ? shown : undefined}>{shown.length > 200 ? `${shown.slice(0, 200)}…` : shown}</span>;
}
