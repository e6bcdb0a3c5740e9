/** Where handlers are served: this process, and what was registered. */

import { useState } from "react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { get, request } from "@/api/client";
import { every, LIVE } from "@/api/live";
import { Page, Panel } from "@/app/Page";
import { Link, navigate, path } from "@/app/router";
import { Button, Field } from "@/design/Button";
import { Dialog } from "@/design/Dialog";
import { ErrorState, SkeletonLines } from "@/design/states";
import { Time } from "@/design/Time";
import { toast } from "@/design/toast";

export interface DeploymentInfo {
  id: string;
  uri?: string;
  arn?: string;
  created_at: string;
  sdk_version?: string;
  min_protocol_version: number;
  max_protocol_version: number;
  services: { name: string; revision: number }[];
}

export default function DeploymentsPage() {
  const [adding, setAdding] = useState(false);
  const found = useQuery({
    queryKey: ["deployments"],
    queryFn: async ({ signal }) => (await get<{ deployments: DeploymentInfo[] }>("/deployments", signal)).deployments,
    refetchInterval: every(LIVE.slow),
  });
  return (
    <Page title="Deployments" actions={<Button kind="primary" icon="plus" onClick={() => setAdding(true)}>Register</Button>}>
      {adding && <Register onClose={() => setAdding(false)} />}
      <Panel flush>
        {found.error ? (
          <ErrorState error={found.error} retry={() => void found.refetch()} />
        ) : found.data === undefined ? (
          <SkeletonLines lines={4} />
        ) : (
          <div className="scroll-x">
            <table className="list">
              <thead>
                <tr>
                  <th scope="col">Address</th>
                  <th scope="col">Services</th>
                  <th scope="col">SDK</th>
                  <th scope="col">Registered</th>
                </tr>
              </thead>
              <tbody>
                {found.data.map((each) => (
                  <tr key={each.id}>
                    <td className="truncate">
                      <Link to={path("deployments", each.id)} title={each.id}>{each.uri ?? each.arn ?? each.id}</Link>
                    </td>
                    <td className="truncate" title={each.services.map((one) => one.name).join(", ")}>{each.services.map((one) => one.name).join(", ")}</td>
                    <td>{each.sdk_version ?? <span className="muted">–</span>}</td>
                    <td><Time at={each.created_at} /></td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </Panel>
    </Page>
  );
}

function Register({ onClose }: { onClose: () => void }) {
  const [address, setAddress] = useState("http://");
  const [force, setForce] = useState(false);
  const client = useQueryClient();
  const register = useMutation({
    mutationFn: () => request<{ id: string }>("/deployments", { method: "POST", json: address.startsWith("arn:") ? { arn: address, force } : { uri: address, force } }),
    onSuccess: (answer) => {
      toast("Registered");
      void client.invalidateQueries({ queryKey: ["deployments"] });
      void client.invalidateQueries({ queryKey: ["services"] });
      onClose();
      navigate(path("deployments", answer.id));
    },
  });
  return (
    <Dialog
      title="Register a deployment"
      onClose={onClose}
      actions={
        <Button kind="primary" busy={register.isPending} onClick={() => register.mutate()}>
          Register
        </Button>
      }
    >
      <div className="stack">
        <Field label="Address" hint="Where an SDK's endpoint listens, or the ARN of a Lambda function.">
          <input className="input" autoFocus value={address} onChange={(event) => setAddress(event.target.value)} />
        </Field>
        <label className="row">
          <input type="checkbox" checked={force} onChange={(event) => setForce(event.target.checked)} /> Replace what is registered at this address
        </label>
        {register.error && <ErrorState error={register.error} />}
      </div>
    </Dialog>
  );
}
