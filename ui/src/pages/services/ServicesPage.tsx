/** The services that invocations can be made of. */

import { useServices } from "@/api/queries";
import { Page, Panel } from "@/app/Page";
import { Link, path } from "@/app/router";
import { Empty, ErrorState, SkeletonLines } from "@/design/states";

export const KIND_OF_SERVICE = { Service: "Service", VirtualObject: "Virtual object", Workflow: "Workflow" } as const;

export default function ServicesPage() {
  const services = useServices();
  return (
    <Page title="Services">
      <Panel flush>
        {services.error ? (
          <ErrorState error={services.error} retry={() => void services.refetch()} />
        ) : services.data === undefined ? (
          <SkeletonLines lines={5} />
        ) : services.data.length === 0 ? (
          <Empty title="No services yet">
            Start the server with an app, <code>perdure serve module:app</code>, or <Link to="/deployments">register a deployment</Link>.
          </Empty>
        ) : (
          <div className="scroll-x">
            <table className="list">
              <thead>
                <tr>
                  <th scope="col">Service</th>
                  <th scope="col">Kind</th>
                  <th scope="col">Handlers</th>
                  <th scope="col" className="num">Revision</th>
                  <th scope="col">Reached by</th>
                </tr>
              </thead>
              <tbody>
                {services.data.map((each) => (
                  <tr key={each.name}>
                    <td className="truncate">
                      <Link to={path("services", each.name)} title={each.name}>{each.name}</Link>
                    </td>
                    <td>{KIND_OF_SERVICE[each.ty]}</td>
                    <td className="truncate" title={each.handlers.map((handler) => handler.name).join(", ")}>
                      {each.handlers.map((handler) => handler.name).join(", ")}
                    </td>
                    <td className="num">{each.revision}</td>
                    <td>{each.public ? "The ingress" : <span className="muted">Handlers only</span>}</td>
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
