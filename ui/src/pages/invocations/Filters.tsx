/** The row of filters above the list. All of it is in the address. */

import { useEffect, useState } from "react";
import { useServices } from "@/api/queries";
import { useSearch } from "@/app/router";
import { Button } from "@/design/Button";
import { Icon } from "@/design/Icon";
import { Picker } from "@/design/Picker";
import { Status } from "@/design/Status";
import { isNarrow, SPANS, STATUSES, type Filter } from "./filter";
import css from "./Invocations.module.css";

export function Filters({ filter, error }: { filter: Filter; error: Error | null }) {
  const [, setSearch] = useSearch();
  const services = useServices();
  const [sql, setSql] = useState(filter.where !== "");
  const [exact, setExact] = useState(filter.from !== "" || filter.to !== "");
  const known = services.data ?? [];
  const names = [...new Set([...known.map((each) => each.name), ...filter.service])].sort();
  const among = filter.service.length === 0 ? known : known.filter((each) => filter.service.includes(each.name));
  const handlers = [...new Set([...among.flatMap((each) => each.handlers.map((handler) => handler.name)), ...filter.handler])].sort();
  return (
    <div className={css.filters} role="search" aria-label="Filters">
      <Picker
        label="Status"
        options={STATUSES.map((value) => ({ value, label: <Status status={value} /> }))}
        chosen={filter.status}
        onChange={(status) => setSearch({ status })}
      />
      <Picker label="Service" options={names.map((value) => ({ value }))} chosen={filter.service} onChange={(service) => setSearch({ service })} />
      <Picker label="Handler" options={handlers.map((value) => ({ value }))} chosen={filter.handler} onChange={(handler) => setSearch({ handler })} />
      <Picker
        label="Time"
        single
        options={SPANS}
        chosen={filter.span === "" ? [] : [filter.span]}
        onChange={(span) => setSearch({ span, from: null, to: null })}
      />
      <Typed label="Key" value={filter.key} onChange={(key) => setSearch({ key })} />
      <Typed label="Error text" value={filter.error} onChange={(error) => setSearch({ error })} wide />
      <Button kind="quiet" aria-pressed={exact} onClick={() => setExact(!exact)} icon="clock">
        From, to
      </Button>
      <Button kind="quiet" aria-pressed={sql} onClick={() => setSql(!sql)} icon="sql">
        SQL
      </Button>
      {isNarrow(filter) && (
        <Button
          kind="quiet"
          icon="close"
          onClick={() => setSearch({ status: null, service: null, handler: null, key: null, error: null, span: null, from: null, to: null, where: null })}
        >
          Clear
        </Button>
      )}
      {exact && (
        <div className={css.line}>
          <Moment label="From" value={filter.from} onChange={(from) => setSearch({ from, span: null })} />
          <Moment label="To" value={filter.to} onChange={(to) => setSearch({ to, span: null })} />
        </div>
      )}
      {sql && <Condition value={filter.where} error={error} onChange={(where) => setSearch({ where })} />}
    </div>
  );
}

/** Tells of what is typed when there is a pause. */
function Typed({ label, value, onChange, wide }: { label: string; value: string; onChange: (value: string) => void; wide?: boolean }) {
  const [typed, setTyped] = useState(value);
  useEffect(() => setTyped(value), [value]);
  useEffect(() => {
    if (typed === value) return;
    const timer = setTimeout(() => onChange(typed), 400);
    return () => clearTimeout(timer);
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [typed]);
  return (
    <input
      className={`input ${css.typed} ${wide ? css.wide : ""}`}
      aria-label={label}
      placeholder={label}
      spellCheck={false}
      value={typed}
      onChange={(event) => setTyped(event.target.value)}
      onKeyDown={(event) => event.key === "Enter" && onChange(typed)}
    />
  );
}

function Moment({ label, value, onChange }: { label: string; value: string; onChange: (value: string) => void }) {
  const local = value === "" ? "" : new Date(Date.parse(value) - new Date(value).getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
  return (
    <label className="row">
      {label}
      <input
        className="input"
        type="datetime-local"
        step={1}
        value={local}
        onChange={(event) => onChange(event.target.value === "" ? "" : new Date(event.target.value).toISOString())}
      />
    </label>
  );
}

function Condition({ value, error, onChange }: { value: string; error: Error | null; onChange: (value: string) => void }) {
  const [typed, setTyped] = useState(value);
  useEffect(() => setTyped(value), [value]);
  return (
    <form
      className={css.line}
      onSubmit={(event) => {
        event.preventDefault();
        onChange(typed.trim());
      }}
    >
      <Icon name="filter" />
      <input
        className="input mono grow"
        aria-label="Condition in SQL"
        aria-invalid={error !== null && value !== "" ? true : undefined}
        placeholder="retry_count > 3 AND target_service_key LIKE 'user-%'"
        spellCheck={false}
        autoFocus={value === ""}
        value={typed}
        onChange={(event) => setTyped(event.target.value)}
      />
      <Button type="submit">Apply</Button>
    </form>
  );
}
