/** Calls a handler with a form made of its schema, and shows the answer. */

import { useState } from "react";
import { useMutation, useQuery } from "@tanstack/react-query";
import { fetchRaw, get, segment } from "@/api/client";
import type { ServiceInfo } from "@/api/types";
import { Page, Panel } from "@/app/Page";
import { Link, path, useParams } from "@/app/router";
import { Button, Field } from "@/design/Button";
import { CodeBlock, JsonView } from "@/design/Json";
import { initial, problems, SchemaForm, type Schema } from "@/design/SchemaForm";
import { Empty, ErrorState, SkeletonLines } from "@/design/states";
import { duration } from "@/design/format";
import css from "./playground.module.css";

interface Answer {
  status: number;
  id: string | null;
  body: string;
  type: string;
  took: number;
}

export default function PlaygroundPage() {
  const { service = "", handler = "" } = useParams();
  const found = useQuery({ queryKey: ["service", service], queryFn: ({ signal }) => get<ServiceInfo>(`/services/${segment(service)}`, signal) });
  const info = found.data?.handlers.find((each) => each.name === handler);
  return (
    <Page
      title={`Call ${handler}`}
      trail={[
        { title: "Services", to: "/services" },
        { title: service, to: path("services", service) },
      ]}
    >
      {found.error ? (
        <ErrorState error={found.error} retry={() => void found.refetch()} />
      ) : found.data === undefined ? (
        <Panel><SkeletonLines lines={5} /></Panel>
      ) : info === undefined ? (
        <Empty title="There is no such handler">
          {service} has {found.data.handlers.map((each) => each.name).join(", ")}.
        </Empty>
      ) : (
        <Form
          key={`${service}/${handler}`}
          service={service}
          handler={handler}
          keyed={found.data.ty !== "Service"}
          schema={(info.input_json_schema as Schema | undefined) ?? null}
          takes={info.input_description !== "none"}
        />
      )}
    </Page>
  );
}

function Form(props: { service: string; handler: string; keyed: boolean; schema: Schema | null; takes: boolean }) {
  const { service, handler, keyed, schema, takes } = props;
  const [key, setKey] = useState("");
  const [value, setValue] = useState<unknown>(() => (schema === null ? null : initial(schema, schema)));
  const [text, setText] = useState("");
  const [idempotency, setIdempotency] = useState("");
  const [tried, setTried] = useState(false);
  const wrong = schema === null ? new Map<string, string>() : problems(value, schema);
  const call = useMutation({
    mutationFn: async (send: boolean): Promise<Answer> => {
      const began = performance.now();
      const target = [service, ...(keyed ? [key] : []), handler].map(segment).join("/");
      const body = !takes ? undefined : schema === null ? text : JSON.stringify(value);
      const headers: Record<string, string> = { ...(body === undefined ? {} : { "content-type": "application/json" }), ...(idempotency === "" ? {} : { "idempotency-key": idempotency }) };
      const response = await fetchRaw(`/ingress/${target}${send ? "/send" : ""}`, { method: "POST", headers, ...(body === undefined ? {} : { body }) });
      const answer = await response.text();
      const sent = send && response.ok ? (JSON.parse(answer) as { invocationId: string }).invocationId : null;
      return {
        status: response.status,
        id: sent ?? response.headers.get("x-restate-id"),
        body: answer,
        type: response.headers.get("content-type") ?? "",
        took: performance.now() - began,
      };
    },
  });
  const go = (send: boolean) => {
    setTried(true);
    if (wrong.size === 0 && (!keyed || key !== "")) call.mutate(send);
  };
  return (
    <div className={css.beside}>
      <Panel title="Input">
        <form noValidate className="stack" onSubmit={(event) => (event.preventDefault(), go(false))}>
          {keyed && (
            <Field label="Key" error={tried && key === "" ? "A key is needed: it names the object" : undefined}>
              <input className="input" value={key} onChange={(event) => setKey(event.target.value)} />
            </Field>
          )}
          {!takes ? (
            <p className="muted">It takes nothing.</p>
          ) : schema === null ? (
            <Field label="Body, as JSON">
              <textarea className="input mono" rows={6} value={text} onChange={(event) => setText(event.target.value)} />
            </Field>
          ) : (
            <SchemaForm schema={schema} value={value} onChange={setValue} errors={tried ? wrong : new Map()} />
          )}
          <Field label="Idempotency key" hint="Calls with the same key are one invocation.">
            <input className="input" value={idempotency} onChange={(event) => setIdempotency(event.target.value)} />
          </Field>
          <div className="row">
            <Button kind="primary" type="submit" icon="play" busy={call.isPending}>
              Call
            </Button>
            <Button busy={call.isPending} onClick={() => go(true)}>
              Send, and do not wait
            </Button>
          </div>
        </form>
      </Panel>
      <Panel title="Answer" aside={call.data && <span className="muted">{duration(call.data.took)}</span>}>
        {call.isPending ? (
          <SkeletonLines lines={4} />
        ) : call.error ? (
          <ErrorState error={call.error} />
        ) : call.data === undefined ? (
          <Empty title="Not called yet">A handler may take as long as it likes; send it, and look at its invocation.</Empty>
        ) : (
          <div className="stack">
            <dl className="facts">
              <dt>Status</dt>
              <dd className={call.data.status >= 400 ? css.bad : undefined}>{call.data.status}</dd>
              {call.data.id && (
                <>
                  <dt>Invocation</dt>
                  <dd className="truncate"><Link to={path("invocations", call.data.id)}>{call.data.id}</Link></dd>
                </>
              )}
            </dl>
            <Body of={call.data} />
          </div>
        )}
      </Panel>
    </div>
  );
}

function Body({ of }: { of: Answer }) {
  if (of.body === "") return <span className="muted">Empty</span>;
  try {
    return <JsonView value={JSON.parse(of.body)} label="answer" />;
  } catch {
    return <CodeBlock text={of.body} label="answer" />;
  }
}
