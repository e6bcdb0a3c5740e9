/** One object: its state, to look at and to edit; who holds it, and who waits for it. */

import { Fragment, useState } from "react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { get, request, segment } from "@/api/client";
import { every, LIVE } from "@/api/live";
import { query, text } from "@/api/sql";
import { Page, Panel } from "@/app/Page";
import { Link, path, useParams } from "@/app/router";
import { Button, Field } from "@/design/Button";
import { Confirm, Dialog } from "@/design/Dialog";
import { decoded, Payload } from "@/design/Json";
import { Empty, ErrorState, SkeletonLines } from "@/design/states";
import { toast, toastError } from "@/design/toast";
import { plural } from "@/design/format";

const encoded = (value: string): string => btoa(Array.from(new TextEncoder().encode(value), (byte) => String.fromCharCode(byte)).join(""));

export default function ObjectPage() {
  const { service = "", key = "" } = useParams();
  const [edited, setEdited] = useState<{ name: string; value: string; fresh: boolean } | null>(null);
  const [removed, setRemoved] = useState<string | null>(null);
  const client = useQueryClient();
  const found = useQuery({
    queryKey: ["object", service, key],
    queryFn: async ({ signal }) => (await get<{ state: Record<string, string> }>(`/services/${segment(service)}/state/${segment(key)}`, signal)).state,
    refetchInterval: every(LIVE.normal),
  });
  const change = useMutation({
    mutationFn: (changes: Record<string, string | null>) => request(`/services/${segment(service)}/state/${segment(key)}`, { method: "PATCH", json: { changes } }),
    onSuccess: () => {
      toast("Stored: it takes its turn among the handlers of this key");
      setEdited(null);
      setRemoved(null);
      void client.invalidateQueries({ queryKey: ["object", service, key] });
    },
    onError: toastError,
  });
  return (
    <Page
      title={key}
      trail={[
        { title: "State", to: "/state" },
        { title: service, to: path("state", service) },
      ]}
      actions={<Button icon="plus" onClick={() => setEdited({ name: "", value: "", fresh: true })}>Add a name</Button>}
    >
      {edited && <Editor of={edited} busy={change.isPending} onClose={() => setEdited(null)} onStore={(name, value) => change.mutate({ [name]: encoded(value) })} />}
      {removed !== null && (
        <Confirm title={`Remove ${removed}?`} action="Remove" danger busy={change.isPending} onConfirm={() => change.mutate({ [removed]: null })} onClose={() => setRemoved(null)}>
          <p>Handlers of this key will find it absent.</p>
        </Confirm>
      )}
      <Queue service={service} objectKey={key} />
      {found.error ? (
        <ErrorState error={found.error} retry={() => void found.refetch()} />
      ) : found.data === undefined ? (
        <Panel><SkeletonLines lines={4} /></Panel>
      ) : Object.keys(found.data).length === 0 ? (
        <Panel><Empty title="It has no state" /></Panel>
      ) : (
        Object.entries(found.data)
          .sort(([one], [other]) => one.localeCompare(other))
          .map(([name, value]) => (
            <Panel
              key={name}
              title={name}
              aside={
                <span className="row">
                  <Button small icon="edit" onClick={() => setEdited({ name, value: textOf(value), fresh: false })}>Edit</Button>
                  <Button small icon="trash" onClick={() => setRemoved(name)}>Remove</Button>
                </span>
              }
            >
              <Payload base64={value} label={name} />
            </Panel>
          ))
      )}
    </Page>
  );
}

function textOf(base64: string): string {
  const read = decoded(base64);
  if (read.kind === "json") return JSON.stringify(read.value, null, 2);
  return read.kind === "text" ? read.text : "";
}

function Editor(props: { of: { name: string; value: string; fresh: boolean }; busy: boolean; onClose: () => void; onStore: (name: string, value: string) => void }) {
  const [name, setName] = useState(props.of.name);
  const [value, setValue] = useState(props.of.value);
  let wrong: string | undefined;
  try {
    JSON.parse(value);
  } catch (error) {
    wrong = error instanceof Error ? error.message : String(error);
  }
  return (
    <Dialog
      title={props.of.fresh ? "Add a name" : `Edit ${props.of.name}`}
      wide
      onClose={props.onClose}
      actions={
        <Button kind="primary" busy={props.busy} disabled={name === "" || wrong !== undefined} onClick={() => props.onStore(name, value)}>
          Store
        </Button>
      }
    >
      <div className="stack">
        {props.of.fresh && (
          <Field label="Name">
            <input className="input" value={name} onChange={(event) => setName(event.target.value)} />
          </Field>
        )}
        <Field label="Value, as JSON" error={value === "" ? undefined : wrong}>
          <textarea className="input mono" rows={10} spellCheck={false} value={value} onChange={(event) => setValue(event.target.value)} />
        </Field>
      </div>
    </Dialog>
  );
}

function Queue({ service, objectKey }: { service: string; objectKey: string }) {
  const of = `service_name = ${text(service)} AND service_key = ${text(objectKey)}`;
  const found = useQuery({
    queryKey: ["queue", service, objectKey],
    queryFn: async ({ signal }) => {
      const [holders, waiting, promises] = await Promise.all([
        query<{ invocation_id: string }>(`SELECT invocation_id FROM sys_keyed_service_status WHERE ${of}`, signal),
        query<{ id?: string }>(`SELECT id FROM sys_inbox WHERE ${of} ORDER BY sequence_number LIMIT 50`, signal),
        query<{ key: string; completed: boolean; completion_success_value_utf8?: string; completion_failure?: string }>(
          `SELECT key, completed, completion_success_value_utf8, completion_failure FROM sys_promise WHERE ${of}`,
          signal,
        ),
      ]);
      return { holder: holders[0]?.invocation_id, waiting, promises };
    },
    refetchInterval: every(LIVE.normal),
  });
  if (found.data === undefined || (found.data.holder === undefined && found.data.promises.length === 0)) return null;
  const { holder, waiting, promises } = found.data;
  return (
    <Panel>
      <dl className="facts">
        {holder && (
          <>
            <dt>Held by</dt>
            <dd className="truncate"><Link to={path("invocations", holder)} className="mono">{holder}</Link></dd>
          </>
        )}
        {waiting.length > 0 && (
          <>
            <dt>{plural(waiting.length, "waits", "wait")}</dt>
            <dd className="stack">
              {waiting.map((each, index) =>
                each.id === undefined ? <span key={index} className="muted">a change of its state</span> : <Link key={each.id} to={path("invocations", each.id)} className="mono truncate">{each.id}</Link>,
              )}
            </dd>
          </>
        )}
        {promises.map((each) => (
          <Fragment key={each.key}>
            <dt>Promise {each.key}</dt>
            <dd className="truncate">{each.completed ? (each.completion_success_value_utf8 ?? each.completion_failure ?? "complete") : <span className="muted">not complete</span>}</dd>
          </Fragment>
        ))}
      </dl>
    </Panel>
  );
}
