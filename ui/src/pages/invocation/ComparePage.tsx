/** Two runs side by side: where they did the same, and where they parted. */

import { useQuery } from "@tanstack/react-query";
import { get, segment } from "@/api/client";
import { Page, Panel } from "@/app/Page";
import { Link, path, useParams } from "@/app/router";
import { ErrorState, SkeletonLines } from "@/design/states";
import { Time } from "@/design/Time";
import { duration } from "@/design/format";
import { spansOf, type Described, type Span } from "./described";
import css from "./invocation.module.css";

const useInvocation = (id: string) => useQuery({ queryKey: ["invocation", id], queryFn: ({ signal }) => get<Described>(`/invocations/${segment(id)}`, signal) });

export default function ComparePage() {
  const { id = "", other = "" } = useParams();
  const left = useInvocation(id);
  const right = useInvocation(other);
  const error = left.error ?? right.error;
  return (
    <Page
      title="Two runs"
      trail={[
        { title: "Invocations", to: "/invocations" },
        { title: id.slice(0, 14), to: path("invocations", id) },
      ]}
    >
      {error ? (
        <ErrorState error={error} />
      ) : left.data === undefined || right.data === undefined ? (
        <Panel><SkeletonLines lines={6} /></Panel>
      ) : (
        <Both left={left.data} right={right.data} />
      )}
    </Page>
  );
}

function Both({ left, right }: { left: Described; right: Described }) {
  const [one, two] = [spansOf(left.journal), spansOf(right.journal)];
  const rows = Array.from({ length: Math.max(one.length, two.length) }, (_, index) => [one[index], two[index]] as const);
  const parted = rows.findIndex(([a, b]) => a?.title !== b?.title);
  return (
    <Panel flush title={parted < 0 ? "They did the same things" : `They part at entry ${one[parted]?.entry.index ?? two[parted]?.entry.index}`}>
      <div className="scroll-x">
        <table className="list">
          <thead>
            <tr>
              {[left, right].map((each) => (
                <th key={each.id} scope="col" colSpan={2}>
                  <Link to={path("invocations", each.id)} className="mono">{each.id.slice(0, 14)}…</Link> <Time at={each.created_at} />
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map(([a, b], index) => (
              <tr key={index} className={a?.title === b?.title ? undefined : css.differs}>
                <Half of={a} />
                <Half of={b} />
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

function Half({ of }: { of: Span | undefined }) {
  if (of === undefined) return <td colSpan={2} className="muted">–</td>;
  return (
    <>
      <td className="truncate">{of.failed ? <span className={css.bad}>{of.title}</span> : of.title}</td>
      <td className="num">{of.kind === "mark" ? "" : of.end === null ? "open" : duration(of.end - of.begin)}</td>
    </>
  );
}
