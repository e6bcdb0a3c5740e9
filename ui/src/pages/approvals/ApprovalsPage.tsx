/** The inbox of approvals: what waits for a person, and the person's answer. */

import { useState } from "react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { get, request, segment } from "@/api/client";
import { every, LIVE } from "@/api/live";
import { Page, Panel } from "@/app/Page";
import { Link, path, useParams, useSearch } from "@/app/router";
import { Button, Field } from "@/design/Button";
import { JsonView } from "@/design/Json";
import { initial, problems, SchemaForm, type Schema } from "@/design/SchemaForm";
import { Empty, ErrorState, SkeletonLines } from "@/design/states";
import { Tabs } from "@/design/Tabs";
import { Time } from "@/design/Time";
import { toast, toastError } from "@/design/toast";
import css from "./approvals.module.css";

interface Approval {
  id: string;
  status: "open" | "approved" | "rejected" | "expired" | "withdrawn";
  title: string;
  context: unknown;
  schema: Schema | null;
  requester: { invocation_id: string; service: string; handler: string; key: string | null };
  to: string[];
  tags: string[];
  problem: string | null;
  created_at: string;
  expires_at: string | null;
  closed_at: string | null;
  value: unknown;
  comment: string | null;
  by: string | null;
}

export default function ApprovalsPage() {
  const { id } = useParams();
  const [params, setParams] = useSearch();
  const status = params.get("status") === "closed" ? "closed" : "open";
  const list = useQuery({
    queryKey: ["approvals", status],
    queryFn: async ({ signal }) => (await get<{ approvals: Approval[] }>(`/approvals?status=${status}&limit=100`, signal)).approvals,
    refetchInterval: every(LIVE.normal),
  });
  const one = useQuery({
    queryKey: ["approval", id],
    queryFn: ({ signal }) => get<Approval>(`/approvals/${segment(id ?? "")}`, signal),
    enabled: id !== undefined,
    refetchInterval: every(LIVE.normal),
  });
  return (
    <Page title="Approvals">
      <Tabs
        label="Which"
        tabs={[
          { id: "open", label: "Open" },
          { id: "closed", label: "Answered" },
        ]}
        chosen={status}
        onChoose={(each) => setParams({ status: each === "open" ? null : each })}
      >
        <div className={css.beside}>
          <Panel flush>
            {list.error ? (
              <ErrorState error={list.error} retry={() => void list.refetch()} />
            ) : list.data === undefined ? (
              <SkeletonLines lines={4} />
            ) : list.data.length === 0 ? (
              <Empty title={status === "open" ? "Nobody waits for an answer" : "Nothing was answered lately"}>
                Handlers ask with <code>ctx.approval</code>; what is closed is listed for 30 days.
              </Empty>
            ) : (
              <ul className={css.list}>
                {list.data.map((each) => (
                  <li key={each.id}>
                    <Link to={path("approvals", each.id) + (status === "open" ? "" : "?status=closed")} className={css.item} aria-current={each.id === id ? "true" : undefined}>
                      <span className="truncate">{each.title}</span>
                      <span className="muted truncate">
                        {each.status === "open" ? "" : `${each.status}, `}
                        {each.requester.service}/{each.requester.handler}, <Time at={each.created_at} />
                      </span>
                    </Link>
                  </li>
                ))}
              </ul>
            )}
          </Panel>
          {id === undefined ? (
            list.data !== undefined && list.data.length > 0 && <Panel><Empty title="Choose one" /></Panel>
          ) : one.error ? (
            <Panel><ErrorState error={one.error} retry={() => void one.refetch()} /></Panel>
          ) : one.data === undefined ? (
            <Panel><SkeletonLines lines={5} /></Panel>
          ) : (
            <Detail key={id} of={one.data} />
          )}
        </div>
      </Tabs>
    </Page>
  );
}

function Detail({ of }: { of: Approval }) {
  return (
    <Panel title={of.title}>
      <div className="stack">
        <dl className="facts">
          <dt>Asked by</dt>
          <dd className="truncate">
            <Link to={path("invocations", of.requester.invocation_id)}>{[of.requester.service, of.requester.key, of.requester.handler].filter(Boolean).join("/")}</Link>{" "}
            <span className="muted"><Time at={of.created_at} /></span>
          </dd>
          {of.to.length > 0 && (
            <>
              <dt>Of</dt>
              <dd>{of.to.join(", ")}</dd>
            </>
          )}
          {of.tags.length > 0 && (
            <>
              <dt>Tags</dt>
              <dd>{of.tags.map((each) => <span key={each} className="badge">{each}</span>)}</dd>
            </>
          )}
          {of.expires_at && of.status === "open" && (
            <>
              <dt>Answer until</dt>
              <dd><Time at={of.expires_at} /></dd>
            </>
          )}
        </dl>
        {of.problem && <p className={css.problem} role="alert">The last answer did not fit: {of.problem}</p>}
        {of.context !== null && (
          <section>
            <h3 className={css.heading}>What to know</h3>
            <JsonView value={of.context} label="context" />
          </section>
        )}
        {of.status === "open" ? <Answer of={of} /> : <Answered of={of} />}
      </div>
    </Panel>
  );
}

function Answered({ of }: { of: Approval }) {
  return (
    <section className="stack">
      <p>
        {{ approved: "Approved", rejected: "Rejected", expired: "Nobody answered in time", withdrawn: "Withdrawn: nobody waits for it any more", open: "" }[of.status]}
        {of.by && <> by {of.by}</>} {of.closed_at && <span className="muted"><Time at={of.closed_at} /></span>}
      </p>
      {of.comment && <blockquote className={css.comment}>{of.comment}</blockquote>}
      {of.value !== null && <JsonView value={of.value} label="value" />}
    </section>
  );
}

function Answer({ of }: { of: Approval }) {
  const [value, setValue] = useState<unknown>(() => (of.schema === null ? null : initial(of.schema, of.schema)));
  const [comment, setComment] = useState("");
  const [tried, setTried] = useState(false);
  const client = useQueryClient();
  const wrong = of.schema === null ? new Map<string, string>() : problems(value, of.schema);
  const answer = useMutation({
    mutationFn: (approved: boolean) =>
      request(`/approvals/${segment(of.id)}/${approved ? "approve" : "reject"}`, {
        method: "POST",
        json: { ...(approved && of.schema !== null ? { value } : {}), ...(comment === "" ? {} : { comment }) },
      }),
    onSuccess: (_, approved) => {
      toast(approved ? "Approved" : "Rejected");
      void client.invalidateQueries({ queryKey: ["approvals"] });
      void client.invalidateQueries({ queryKey: ["approval", of.id] });
      void client.invalidateQueries({ queryKey: ["counts"] });
    },
    onError: toastError,
  });
  const approve = () => {
    setTried(true);
    if (wrong.size === 0) answer.mutate(true);
  };
  return (
    <form noValidate className="stack" onSubmit={(event) => (event.preventDefault(), approve())}>
      {of.schema !== null && <SchemaForm schema={of.schema} value={value} onChange={setValue} errors={tried ? wrong : new Map()} />}
      <Field label="Comment" hint="The handler is told; after a rejection it is the reason.">
        <textarea className="input" rows={2} value={comment} onChange={(event) => setComment(event.target.value)} />
      </Field>
      <div className="row">
        <Button kind="primary" type="submit" busy={answer.isPending}>
          Approve
        </Button>
        <Button kind="danger" busy={answer.isPending} onClick={() => answer.mutate(false)}>
          Reject
        </Button>
      </div>
    </form>
  );
}
