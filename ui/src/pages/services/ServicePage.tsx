/** One service: its handlers, what goes in and out of them, by which policies they run. */

import { Fragment } from "react";
import { useQuery } from "@tanstack/react-query";
import { get, segment } from "@/api/client";
import type { HandlerInfo, ServiceInfo } from "@/api/types";
import { Page, Panel } from "@/app/Page";
import { Link, path, useParams } from "@/app/router";
import { JsonView } from "@/design/Json";
import { ErrorState, SkeletonLines } from "@/design/states";
import { KIND_OF_SERVICE } from "./ServicesPage";

const POLICIES: readonly [string, string][] = [
  ["idempotency_retention", "Results are kept for callers with the same key"],
  ["journal_retention", "Journals are kept"],
  ["workflow_completion_retention", "A workflow's result is kept"],
  ["inactivity_timeout", "Suspended when idle for"],
  ["abort_timeout", "Cut off after that"],
];

export default function ServicePage() {
  const { service = "" } = useParams();
  const found = useQuery({ queryKey: ["service", service], queryFn: ({ signal }) => get<ServiceInfo>(`/services/${segment(service)}`, signal) });
  return (
    <Page
      title={service}
      trail={[{ title: "Services", to: "/services" }]}
      aside={found.data && <span className="badge">{KIND_OF_SERVICE[found.data.ty]}</span>}
      actions={<Link className="button" to={`/invocations?service=${encodeURIComponent(service)}`}>Its invocations</Link>}
    >
      {found.error ? (
        <ErrorState error={found.error} retry={() => void found.refetch()} />
      ) : found.data === undefined ? (
        <Panel><SkeletonLines lines={6} /></Panel>
      ) : (
        <>
          {found.data.documentation && <p>{found.data.documentation}</p>}
          <Panel title="Policies">
            <Policies of={found.data} />
          </Panel>
          {found.data.handlers.map((each) => (
            <Handler key={each.name} service={found.data} of={each} />
          ))}
        </>
      )}
    </Page>
  );
}

function Policies({ of }: { of: Record<string, unknown> }) {
  const retry = of["retry_policy"] as Record<string, unknown> | undefined;
  return (
    <dl className="facts">
      {POLICIES.filter(([name]) => of[name] != null).map(([name, about]) => (
        <Fragment key={name}>
          <dt>{about}</dt>
          <dd>{String(of[name])}</dd>
        </Fragment>
      ))}
      {retry && (
        <>
          <dt>Failures are tried again</dt>
          <dd>
            {retry["max_attempts"] == null ? "for ever" : `up to ${String(retry["max_attempts"])} attempts`}, from {String(retry["initial_interval"])} to{" "}
            {String(retry["max_interval"] ?? "any length")} apart; then it is {retry["on_max_attempts"] === "Kill" ? "failed" : "paused"}
          </dd>
        </>
      )}
      {typeof of["deployment_id"] === "string" && (
        <>
          <dt>Deployment</dt>
          <dd className="truncate"><Link to={path("deployments", of["deployment_id"])}>{of["deployment_id"]}</Link></dd>
        </>
      )}
    </dl>
  );
}

function Handler({ service, of }: { service: ServiceInfo; of: HandlerInfo }) {
  return (
    <Panel title={of.name} aside={<Link className="button small" to={path("services", service.name, of.name, "call")}>Call it</Link>}>
      <div className="stack">
        {of.documentation && <p>{of.documentation}</p>}
        <dl className="facts">
          {of.ty && (
            <>
              <dt>Runs</dt>
              <dd>{{ Exclusive: "one at a time for a key", Shared: "beside others", Workflow: "once for a key" }[of.ty]}</dd>
            </>
          )}
          <dt>Takes</dt>
          <dd>{of.input_description}</dd>
          <dt>Gives</dt>
          <dd>{of.output_description}</dd>
        </dl>
        {of.input_json_schema !== undefined && <JsonView value={of.input_json_schema} label={`input schema of ${of.name}`} />}
      </div>
    </Panel>
  );
}
