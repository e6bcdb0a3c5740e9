import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { useQuery } from "@tanstack/react-query";
import { useKeyset } from "@/api/keyset";
import { every, LIVE } from "@/api/live";
import { pageOf, query, where } from "@/api/sql";
import type { InvocationRow } from "@/api/types";
import { Page } from "@/app/Page";
import { useCommands } from "@/app/commands";
import { Link, navigate, path, useSearch } from "@/app/router";
import { Button, Id } from "@/design/Button";
import { count, plural } from "@/design/format";
import { Picker } from "@/design/Picker";
import { Empty, ErrorState, Skeleton } from "@/design/states";
import { shownStatus, Status } from "@/design/Status";
import { Table, type Column, type TableHandle } from "@/design/Table";
import { Elapsed, Time } from "@/design/Time";
import { BulkDialog } from "./BulkDialog";
import { ACTIONS, type Action, type Meant } from "./bulk";
import { conditionsOf, filterOf, isNarrow, SORT_TITLES, SORTS, type Filter, type Sort } from "./filter";
import { Filters } from "./Filters";
import css from "./Invocations.module.css";

const SIZE = 200;
const SELECT = `SELECT id, target, target_service_name, target_service_key, target_handler_name, target_service_ty, status,
  completion_result, completion_failure, created_at, modified_at, running_at, completed_at, scheduled_start_at, next_retry_at,
  retry_count, last_failure FROM sys_invocation`;

export default function InvocationsPage() {
  const [params, setSearch] = useSearch();
  const text = params.toString();
  const filter = useMemo(() => filterOf(params), [text]); // eslint-disable-line react-hooks/exhaustive-deps
  const [live, setLive] = useState(true);
  const [selected, setSelected] = useState<ReadonlySet<string>>(new Set());
  const [all, setAll] = useState(false);
  const [asked, setAsked] = useState<{ action: Action; meant: Meant } | null>(null);
  const table = useRef<TableHandle>(null);

  const list = useKeyset<InvocationRow>({
    key: ["invocations", filter],
    size: SIZE,
    live: live ? LIVE.normal : 0,
    fetch: (cursor, signal) => pageOf(SELECT, conditionsOf(filter, Date.now()), SORTS[filter.sort], cursor, SIZE, signal),
  });
  const total = useQuery({
    queryKey: ["invocations", filter, "count"],
    queryFn: async ({ signal }) => (await query<{ n: number }>(`SELECT COUNT(*) AS n FROM sys_invocation ${where(conditionsOf(filter, Date.now()))}`, signal))[0]!.n,
    refetchInterval: every(live ? LIVE.slow : 600_000),
    enabled: !list.coming, // what people look at comes first
    retry: false,
  });

  const clear = useCallback(() => (setSelected(new Set()), setAll(false)), []);
  useEffect(() => {
    table.current?.scrollToTop();
    clear();
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [text]);
  const act = (action: Action) => {
    if (all) setAsked({ action, meant: { conditions: conditionsOf(filter, Date.now()) } });
    else if (selected.size > 0) setAsked({ action, meant: { ids: [...selected] } });
  };
  useCommands([
    { id: "live", title: live ? "Stop following" : "Follow live", section: "Invocations", keys: "l", run: () => setLive(!live) },
    { id: "refresh", title: "Ask again", section: "Invocations", keys: "r", run: list.refetch },
    ...(all || selected.size > 0 ? ACTIONS.map((action) => ({ id: action.verb, title: `${action.title} what is selected`, section: "Invocations", run: () => act(action) })) : []),
    { id: "failed", title: "Show failed ones", section: "Invocations", words: "errors", run: () => navigate("/invocations?status=failed") },
    { id: "retrying", title: "Show what is retried or paused", section: "Invocations", run: () => navigate("/invocations?status=backing-off&status=paused") },
  ]);

  const columns = useColumns(filter.sort);
  const toggle = useCallback((row: InvocationRow, on: boolean) => {
    setAll(false);
    setSelected((now) => {
      const next = new Set(now);
      if (on) next.add(row.id);
      else next.delete(row.id);
      return next;
    });
  }, []);
  const toggleAll = (on: boolean) => {
    if (!on) return clear();
    const next = new Set<string>();
    for (let index = 0; index < list.count; index++) {
      const row = list.row(index);
      if (row) next.add(row.id);
    }
    setSelected(next);
  };
  const coming = list.coming;
  return (
    <Page
      title="Invocations"
      fill
      aside={
        <span className="muted" aria-live="polite">
          {total.data === undefined ? total.error ? "" : <Skeleton width={8} /> : count(total.data)}
        </span>
      }
      actions={
        <>
        <label className="row">
          <input type="checkbox" checked={filter.builtIn} onChange={(event) => setSearch({ "built-in": event.target.checked ? "true" : null })} />
          <span title="The engine's own: approvals and sessions">Built-in</span>
        </label>
        <Picker
          label="Sort by"
          single
          always
          options={Object.entries(SORT_TITLES).map(([value, label]) => ({ value, label }))}
          chosen={[filter.sort]}
          onChange={([sort]) => sort && setSearch({ sort: sort === "created" ? null : sort })}
        />
        <Button aria-pressed={live} onClick={() => setLive(!live)} icon={live ? "pause" : "play"} title="Ask again every few seconds (l)">
          {live ? "Live" : "Stopped"}
        </Button>
        </>
      }
    >
      <Filters filter={filter} error={list.error} />
      <section className={`panel flush ${css.list}`} aria-label="List">
        {selected.size > 0 && (
          <Selected
            size={selected.size}
            total={total.data}
            all={all}
            onAll={() => setAll(true)}
            onClear={clear}
            onAct={act}
          />
        )}
        {list.error ? (
          <div className={css.inset}>
            <ErrorState error={list.error} retry={list.refetch} />
          </div>
        ) : !coming && list.count === 0 ? (
          <None filter={filter} />
        ) : (
          <Table
            ref={table}
            label="Invocations"
            columns={columns}
            count={coming ? 20 : list.count}
            row={list.row}
            id={(row) => row.id}
            onRange={list.onRange}
            onOpen={(row) => navigate(path("invocations", row.id))}
            selection={{ has: (id) => all || selected.has(id), toggle, toggleAll, all: selected.size > 0 && (all || selected.size >= list.count) }}
          />
        )}
      </section>
      {asked && (
        <BulkDialog
          {...asked}
          onClose={(done) => {
            setAsked(null);
            if (done) clear();
          }}
        />
      )}
    </Page>
  );
}

function useColumns(sort: Sort): Column<InvocationRow>[] {
  return useMemo(() => {
    const sorted = { sort: "desc" as const };
    const when: Column<InvocationRow> =
      sort === "created"
        ? { id: "created", title: "Created", width: "108px", phoneWidth: "84px", align: "right", cell: (row) => <Time at={row.created_at} />, ...sorted }
        : sort === "modified"
          ? { id: "modified", title: "Changed", width: "108px", phoneWidth: "84px", align: "right", cell: (row) => <Time at={row.modified_at} />, ...sorted }
          : { id: "completed", title: "Completed", width: "120px", phoneWidth: "96px", align: "right", cell: (row) => <Time at={row.completed_at} />, ...sorted };
    return [
      { id: "status", title: "Status", phoneTitle: "", width: "124px", phoneWidth: "28px", cell: (row) => <Status status={shownStatus(row)} /> },
      { id: "target", title: "Invocation", width: "minmax(140px, 3fr)", phoneWidth: "minmax(0, 1fr)", cell: (row) => <Target row={row} /> },
      { id: "id", title: "Id", width: "136px", narrow: "hide", cell: (row) => <Id value={row.id} keep={8} /> },
      { id: "why", title: "Last failure", width: "minmax(80px, 3fr)", narrow: "wide", cell: (row) => <Why row={row} /> },
      { id: "took", title: "Took", width: "84px", align: "right", narrow: "hide", cell: (row) => <Took row={row} /> },
      when,
    ];
  }, [sort]);
}

function Target({ row }: { row: InvocationRow }) {
  const { target_service_name: service, target_service_key: key, target_handler_name: handler } = row;
  return (
    <Link to={path("invocations", row.id)} title={row.target} tabIndex={-1} className={css.target}>
      <span className="muted truncate">{service}</span>
      <span className="muted">/</span>
      {key !== undefined && (
        <>
          <span className="muted truncate">{key}</span>
          <span className="muted">/</span>
        </>
      )}
      <span className={`${css.handler} truncate`}>{handler}</span>
    </Link>
  );
}

function Why({ row }: { row: InvocationRow }) {
  const failure = row.completion_failure ?? row.last_failure;
  if (row.status === "scheduled" && row.scheduled_start_at) {
    return (
      <span className="muted">
        Begins <Time at={row.scheduled_start_at} />
      </span>
    );
  }
  if (failure === undefined) return null;
  const tries = row.retry_count && row.retry_count > 1 ? ` after ${plural(row.retry_count, "try", "tries")}` : "";
  return (
    <span className="muted" title={failure}>
      {failure.split("\n")[0]}
      {row.status !== "completed" && tries}
    </span>
  );
}

function Took({ row }: { row: InvocationRow }) {
  if (row.status === "scheduled" || row.status === "pending") return null;
  const elapsed = <Elapsed from={row.created_at} to={row.completed_at} />;
  return row.status === "completed" ? elapsed : <span className="muted">{elapsed}</span>;
}

interface SelectedProps {
  size: number;
  total: number | undefined;
  all: boolean;
  onAll: () => void;
  onClear: () => void;
  onAct: (action: Action) => void;
}

function Selected({ size, total, all, onAll, onClear, onAct }: SelectedProps) {
  return (
    <div className={css.selected} role="toolbar" aria-label="What is selected">
      <strong>{all ? `All ${total === undefined ? "" : count(total)} that fit` : `${count(size)} selected`}</strong>
      {!all && total !== undefined && total > size && (
        <Button small kind="quiet" onClick={onAll}>
          Select all {count(total)}
        </Button>
      )}
      <Button small kind="quiet" onClick={onClear}>
        Clear selection
      </Button>
      <span className="grow" />
      {ACTIONS.map((action) => (
        <Button key={action.verb} small icon={action.icon} onClick={() => onAct(action)}>
          {action.title}
        </Button>
      ))}
    </div>
  );
}

function None({ filter }: { filter: Filter }) {
  if (isNarrow(filter)) {
    return (
      <Empty title="Nothing fits" action={<Button onClick={() => navigate("/invocations")}>Clear filters</Button>}>
        There are no invocations for which all of this holds.
      </Empty>
    );
  }
  return (
    <Empty title="No invocations yet">
      Call a handler in the <Link to="/services">playground</Link>, or with <code>perdure call Service/handler</code>.
    </Empty>
  );
}
