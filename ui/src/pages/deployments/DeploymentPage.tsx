/** One deployment: its services, and what still runs on it. */

import { useState } from "react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { get, request, segment } from "@/api/client";
import { every, LIVE } from "@/api/live";
import { query, text } from "@/api/sql";
import { Page, Panel } from "@/app/Page";
import { Link, navigate, path, useParams } from "@/app/router";
import { Button, CopyButton, Id } from "@/design/Button";
import { Confirm } from "@/design/Dialog";
import { ErrorState, SkeletonLines } from "@/design/states";
import { Time } from "@/design/Time";
import { toast, toastError } from "@/design/toast";
import { count, plural } from "@/design/format";
import type { DeploymentInfo } from "./DeploymentsPage";

const IN_PROCESS = "dp_10000000000000000000000";

export default function DeploymentPage() {
  const { id = "" } = useParams();
  const [asked, setAsked] = useState(false);
  const client = useQueryClient();
  const found = useQuery({ queryKey: ["deployment", id], queryFn: ({ signal }) => get<DeploymentInfo>(`/deployments/${segment(id)}`, signal) });
  const pinned = useQuery({
    queryKey: ["pinned", id],
    queryFn: async ({ signal }) =>
      (await query<{ n: number }>(`SELECT COUNT(*) AS n FROM sys_invocation WHERE pinned_deployment_id = ${text(id)} AND status != 'completed'`, signal))[0]?.n ?? 0,
    refetchInterval: every(LIVE.slow),
  });
  const remove = useMutation({
    mutationFn: () => request(`/deployments/${segment(id)}?force=true`, { method: "DELETE" }),
    onSuccess: () => {
      toast("Removed");
      void client.invalidateQueries({ queryKey: ["deployments"] });
      navigate("/deployments");
    },
    onError: toastError,
  });
  const own = id === IN_PROCESS;
  return (
    <Page
      title={found.data?.uri ?? found.data?.arn ?? id}
      trail={[{ title: "Deployments", to: "/deployments" }]}
      aside={
        <>
          <Id value={id} keep={12} />
          <CopyButton text={id} label="Copy the id" />
        </>
      }
      actions={!own && found.data && <Button kind="danger" onClick={() => setAsked(true)}>Remove</Button>}
    >
      {asked && (
        <Confirm title="Remove this deployment?" action="Remove" danger busy={remove.isPending} onConfirm={() => remove.mutate()} onClose={() => setAsked(false)}>
          {pinned.data ? (
            <p>{plural(pinned.data, "invocation")} that began on it can go on nowhere else, and will be retried until it is registered again.</p>
          ) : (
            <p>Nothing that has begun needs it.</p>
          )}
        </Confirm>
      )}
      {found.error ? (
        <ErrorState error={found.error} retry={() => void found.refetch()} />
      ) : found.data === undefined ? (
        <Panel><SkeletonLines lines={4} /></Panel>
      ) : (
        <>
          <Panel>
            <dl className="facts">
              <dt>Registered</dt>
              <dd><Time at={found.data.created_at} /></dd>
              <dt>Protocol</dt>
              <dd>
                {found.data.min_protocol_version} to {found.data.max_protocol_version}
              </dd>
              <dt>SDK</dt>
              <dd>{found.data.sdk_version ?? (own ? "the server's own process" : <span className="muted">–</span>)}</dd>
              {!own && (
                <>
                  <dt>Runs on it</dt>
                  <dd>{pinned.data === undefined ? "…" : count(pinned.data)}</dd>
                </>
              )}
            </dl>
          </Panel>
          <Panel flush title="Services">
            <div className="scroll-x">
              <table className="list">
                <thead>
                  <tr>
                    <th scope="col">Service</th>
                    <th scope="col" className="num">Revision</th>
                  </tr>
                </thead>
                <tbody>
                  {found.data.services.map((each) => (
                    <tr key={each.name}>
                      <td className="truncate"><Link to={path("services", each.name)}>{each.name}</Link></td>
                      <td className="num">{each.revision}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </div>
          </Panel>
        </>
      )}
    </Page>
  );
}
