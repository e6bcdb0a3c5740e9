/** Objects and workflows that have state: which there are, and how much. */

import { useQuery } from "@tanstack/react-query";
import { every, LIVE } from "@/api/live";
import { containing, query, text, where } from "@/api/sql";
import { Page, Panel } from "@/app/Page";
import { Link, path, useParams, useSearch } from "@/app/router";
import { Field } from "@/design/Button";
import { Empty, ErrorState, SkeletonLines } from "@/design/states";
import { bytes, count } from "@/design/format";

const OURS = "service_name NOT LIKE 'Perdure%'";
const MOST = 500;

export default function StatePage() {
  const { service } = useParams();
  return service === undefined ? <Services /> : <Keys service={service} />;
}

function Services() {
  const found = useQuery({
    queryKey: ["state"],
    queryFn: ({ signal }) =>
      query<{ service_name: string; keys: number; size: number }>(
        `SELECT service_name, COUNT(DISTINCT service_key) AS keys, SUM(value_length) AS size FROM state WHERE ${OURS} GROUP BY 1 ORDER BY 1`,
        signal,
      ),
    refetchInterval: every(LIVE.slow),
  });
  return (
    <Page title="State">
      <Panel flush>
        {found.error ? (
          <ErrorState error={found.error} retry={() => void found.refetch()} />
        ) : found.data === undefined ? (
          <SkeletonLines lines={4} />
        ) : found.data.length === 0 ? (
          <Empty title="No object has state yet">What virtual objects and workflows keep with ctx.set is listed here.</Empty>
        ) : (
          <div className="scroll-x">
            <table className="list">
              <thead>
                <tr>
                  <th scope="col">Service</th>
                  <th scope="col" className="num">Keys</th>
                  <th scope="col" className="num">Size</th>
                </tr>
              </thead>
              <tbody>
                {found.data.map((each) => (
                  <tr key={each.service_name}>
                    <td className="truncate"><Link to={path("state", each.service_name)}>{each.service_name}</Link></td>
                    <td className="num">{count(each.keys)}</td>
                    <td className="num">{bytes(each.size)}</td>
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

function Keys({ service }: { service: string }) {
  const [params, setParams] = useSearch();
  const wanted = params.get("key") ?? "";
  const conditions = where([`service_name = ${text(service)}`, wanted !== "" && `service_key LIKE ${containing(wanted)}`]);
  const found = useQuery({
    queryKey: ["state", service, wanted],
    queryFn: ({ signal }) =>
      query<{ service_key: string; names: number; size: number }>(
        `SELECT service_key, COUNT(*) AS names, SUM(value_length) AS size FROM state ${conditions} GROUP BY 1 ORDER BY 1 LIMIT ${MOST}`,
        signal,
      ),
  });
  return (
    <Page title={service} trail={[{ title: "State", to: "/state" }]}>
      <Field label="Key contains">
        <input className="input" type="search" value={wanted} onChange={(event) => setParams({ key: event.target.value })} />
      </Field>
      <Panel flush>
        {found.error ? (
          <ErrorState error={found.error} retry={() => void found.refetch()} />
        ) : found.data === undefined ? (
          <SkeletonLines lines={4} />
        ) : found.data.length === 0 ? (
          <Empty title="No such key has state" />
        ) : (
          <div className="scroll-x">
            <table className="list">
              <thead>
                <tr>
                  <th scope="col">Key</th>
                  <th scope="col" className="num">Names</th>
                  <th scope="col" className="num">Size</th>
                </tr>
              </thead>
              <tbody>
                {found.data.map((each) => (
                  <tr key={each.service_key}>
                    <td className="truncate"><Link to={path("state", service, each.service_key)}>{each.service_key}</Link></td>
                    <td className="num">{count(each.names)}</td>
                    <td className="num">{bytes(each.size)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </Panel>
      {found.data?.length === MOST && <p className="muted">The first {MOST} keys are shown: say more of the key.</p>}
    </Page>
  );
}
