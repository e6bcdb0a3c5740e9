/** Shows what an action would touch, does it when told to, and how far it is. */

import { useMemo, useRef, useState } from "react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Button, Id } from "@/design/Button";
import { Dialog } from "@/design/Dialog";
import { ErrorState, SkeletonLines } from "@/design/states";
import { Status } from "@/design/Status";
import { toast } from "@/design/toast";
import { count, plural } from "@/design/format";
import type { ShownStatus } from "@/api/types";
import { perform, preview, type Action, type Meant, type Progress } from "./bulk";
import css from "./Invocations.module.css";

export function BulkDialog({ action, meant, onClose }: { action: Action; meant: Meant; onClose: (done: boolean) => void }) {
  const queries = useQueryClient();
  const rows = useQuery({ queryKey: ["bulk", action.verb, meant], queryFn: ({ signal }) => preview(meant, signal), staleTime: 0, gcTime: 0 });
  const [progress, setProgress] = useState<Progress | null>(null);
  const [state, setState] = useState<"asked" | "doing" | "over">("asked");
  const [error, setError] = useState<unknown>(null);
  const stop = useRef(new AbortController());

  const [touched, left] = useMemo(() => {
    const all = rows.data ?? [];
    const fits = all.filter((row) => action.statuses.includes(row.status));
    const sum = (list: typeof all) => list.reduce((total, row) => total + row.count, 0);
    return [{ rows: fits, total: sum(fits) }, sum(all) - sum(fits)];
  }, [rows.data, action]);

  const run = async () => {
    setState("doing");
    try {
      const end = await perform(action, meant, setProgress, stop.current.signal);
      setProgress(end);
      void queries.invalidateQueries();
      if (end.failures === 0) {
        toast(`${plural(end.done, "invocation")} ${action.done}`);
        return onClose(true);
      }
    } catch (failure) {
      if (!stop.current.signal.aborted) setError(failure);
    }
    setState("over");
  };
  const close = () => {
    stop.current.abort();
    onClose(state !== "asked");
  };

  const title = rows.data === undefined ? `${action.title} invocations` : touched.total === 0 ? `Nothing to ${action.title.toLowerCase()}` : `${action.title} ${plural(touched.total, "invocation")}?`;
  return (
    <Dialog
      title={title}
      wide
      onClose={close}
      actions={
        state === "asked" ? (
          <>
            <Button onClick={close}>Leave them</Button>
            <Button kind={action.danger ? "danger" : "primary"} icon={action.icon} disabled={touched.total === 0} onClick={() => void run()}>
              {action.title} {touched.total > 0 && count(touched.total)}
            </Button>
          </>
        ) : (
          <Button onClick={close}>{state === "doing" ? "Stop" : "Close"}</Button>
        )
      }
    >
      <div className="stack">
        <p>
          {action.about}
          {left > 0 && <span className="muted"> {plural(left, "other", "others")} {left === 1 ? "is" : "are"} left alone, for their status does not allow it.</span>}
        </p>
        {rows.error ? (
          <ErrorState error={rows.error} retry={() => void rows.refetch()} />
        ) : rows.data === undefined ? (
          <SkeletonLines lines={4} />
        ) : (
          <div className={css.preview} tabIndex={0} role="region" aria-label="What it touches">
            <table className="list">
              <thead>
                <tr>
                  <th scope="col">Handler</th>
                  <th scope="col">Status</th>
                  <th scope="col" className="num">Invocations</th>
                </tr>
              </thead>
              <tbody>
                {touched.rows.slice(0, 100).map((row) => (
                  <tr key={`${row.target_service_name}/${row.target_handler_name}/${row.status}`}>
                    <td className={css.previewHandler} title={`${row.target_service_name}/${row.target_handler_name}`}>
                      <span className="muted">{row.target_service_name}/</span>
                      {row.target_handler_name}
                    </td>
                    <td>{row.status === "completed" ? <span className="muted">Completed</span> : <Status status={row.status as ShownStatus} />}</td>
                    <td className="num">{count(row.count)}</td>
                  </tr>
                ))}
                {touched.rows.length === 0 && (
                  <tr>
                    <td colSpan={3} className="muted">None of them allows it now</td>
                  </tr>
                )}
              </tbody>
            </table>
          </div>
        )}
        {error !== null && <ErrorState error={error} />}
        {state !== "asked" && progress && (
          <div className="stack" role="status">
            <div className="progress">
              <div style={{ width: `${(100 * (progress.done + progress.failures)) / Math.max(progress.total, 1)}%` }} />
            </div>
            <p>
              {count(progress.done)} of {count(progress.total)} {action.done}
              {progress.failures > 0 && `, ${count(progress.failures)} could not be`}
            </p>
            {progress.failed.length > 0 && (
              <ul className={css.failures}>
                {progress.failed.map((each) => (
                  <li key={each.invocation_id}>
                    <Id value={each.invocation_id} keep={10} /> <span className="muted">{each.error}</span>
                  </li>
                ))}
              </ul>
            )}
          </div>
        )}
      </div>
    </Dialog>
  );
}
