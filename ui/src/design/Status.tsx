/** An invocation's status: a shape and a colour, so that nobody has to tell colours apart. */

import type { InvocationRow, ShownStatus } from "@/api/types";

const SHAPES: Record<ShownStatus, React.ReactNode> = {
  running: <path d="M4 2.5l6 3.5-6 3.5z" fill="currentColor" />,
  ready: <path d="M4 2.5l6 3.5-6 3.5z" fill="none" stroke="currentColor" strokeWidth="1.4" strokeLinejoin="round" />,
  pending: <path d="M2.5 3.5h7M2.5 6h7M2.5 8.5h7" stroke="currentColor" strokeWidth="1.4" strokeLinecap="round" />,
  scheduled: (
    <path d="M6 10.3A4.3 4.3 0 106 1.7a4.3 4.3 0 000 8.6zM6 3.8V6l1.6 1" fill="none" stroke="currentColor" strokeWidth="1.4" strokeLinecap="round" />
  ),
  suspended: <circle cx="6" cy="6" r="3.8" fill="none" stroke="currentColor" strokeWidth="1.5" strokeDasharray="2.4 1.6" />,
  "backing-off": <path d="M6 1.5l5 9H1z M6 4.7v2.6 M6 8.9h.01" fill="none" stroke="currentColor" strokeWidth="1.3" strokeLinecap="round" strokeLinejoin="round" />,
  paused: <path d="M4 2.5v7M8 2.5v7" stroke="currentColor" strokeWidth="2" strokeLinecap="round" />,
  succeeded: <path d="M2 6.5L4.8 9.2 10 3.2" fill="none" stroke="currentColor" strokeWidth="1.7" strokeLinecap="round" strokeLinejoin="round" />,
  failed: <path d="M3 3l6 6M9 3l-6 6" stroke="currentColor" strokeWidth="1.8" strokeLinecap="round" />,
  cancelled: <path d="M6 10.3A4.3 4.3 0 106 1.7a4.3 4.3 0 000 8.6zM3 9l6-6" fill="none" stroke="currentColor" strokeWidth="1.4" />,
};

export const STATUS_COLOR: Record<ShownStatus, string> = {
  running: "var(--st-run)",
  ready: "var(--st-run)",
  pending: "var(--st-wait)",
  scheduled: "var(--st-wait)",
  suspended: "var(--st-wait)",
  "backing-off": "var(--st-retry)",
  paused: "var(--st-paused)",
  succeeded: "var(--st-good)",
  failed: "var(--st-bad)",
  cancelled: "var(--st-wait)",
};

export const STATUS_TEXT: Record<ShownStatus, string> = {
  running: "Running",
  ready: "Ready",
  pending: "Pending",
  scheduled: "Scheduled",
  suspended: "Suspended",
  "backing-off": "Backing off",
  paused: "Paused",
  succeeded: "Succeeded",
  failed: "Failed",
  cancelled: "Cancelled",
};

/** What an invocation's row says of where it stands. */
export function shownStatus(row: Pick<InvocationRow, "status" | "completion_result" | "completion_failure">): ShownStatus {
  if (row.status !== "completed") return row.status;
  if (row.completion_result === "success") return "succeeded";
  return /^\[409\] ?(cancell?ed|killed)/i.test(row.completion_failure ?? "") ? "cancelled" : "failed";
}

export function StatusIcon({ status }: { status: ShownStatus }) {
  return (
    <svg className="status-icon" width="12" height="12" viewBox="0 0 12 12" aria-hidden="true" style={{ color: STATUS_COLOR[status] }}>
      {SHAPES[status]}
    </svg>
  );
}

export function Status({ status, label }: { status: ShownStatus; label?: string }) {
  return (
    <span className="status" style={{ color: STATUS_COLOR[status] }}>
      <StatusIcon status={status} />
      <span className="truncate">{label ?? STATUS_TEXT[status]}</span>
    </span>
  );
}
