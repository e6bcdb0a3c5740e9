/** What invocations are listed: read from the address, made into conditions. */

import { containing, oneOf, text, time } from "@/api/sql";
import type { ShownStatus } from "@/api/types";

export const STATUSES: readonly ShownStatus[] = [
  "running",
  "ready",
  "pending",
  "backing-off",
  "paused",
  "suspended",
  "scheduled",
  "succeeded",
  "failed",
  "cancelled",
];

export const SORTS = { created: "created_at", modified: "modified_at", completed: "completed_at" } as const;
export type Sort = keyof typeof SORTS;
export const SORT_TITLES: Record<Sort, string> = { created: "Created", modified: "Changed last", completed: "Completed" };

export const SPANS: readonly { value: string; label: string; ms: number }[] = [
  { value: "5m", label: "Last 5 minutes", ms: 300_000 },
  { value: "1h", label: "Last hour", ms: 3_600_000 },
  { value: "24h", label: "Last 24 hours", ms: 86_400_000 },
  { value: "7d", label: "Last 7 days", ms: 7 * 86_400_000 },
];

const BUILT_IN = ["PerdureApprovals", "PerdureApprovalIndex", "PerdureSessions"];

export interface Filter {
  status: string[];
  service: string[];
  handler: string[];
  key: string;
  error: string;
  /** A span of time until now, or two times. */
  span: string;
  from: string;
  to: string;
  /** A condition of SQL, the user's own. */
  where: string;
  builtIn: boolean;
  sort: Sort;
}

export function filterOf(params: URLSearchParams): Filter {
  const sort = params.get("sort") ?? "created";
  return {
    status: params.getAll("status"),
    service: params.getAll("service"),
    handler: params.getAll("handler"),
    key: params.get("key") ?? "",
    error: params.get("error") ?? "",
    span: params.get("span") ?? "",
    from: params.get("from") ?? "",
    to: params.get("to") ?? "",
    where: params.get("where") ?? "",
    builtIn: params.get("built-in") === "true",
    sort: sort in SORTS ? (sort as Sort) : "created",
  };
}

/** Whether anything is left out but the engine's own. */
export const isNarrow = (filter: Filter): boolean =>
  filter.status.length + filter.service.length + filter.handler.length > 0 ||
  [filter.key, filter.error, filter.span, filter.from, filter.to, filter.where].some((each) => each !== "");

function statusCondition(chosen: readonly string[]): string | null {
  if (chosen.length === 0) return null;
  const open = chosen.filter((each) => !["succeeded", "failed", "cancelled"].includes(each));
  const parts = open.length > 0 ? [oneOf("status", open)] : [];
  const ended = "completion_failure LIKE '[409]%'";
  if (chosen.includes("succeeded")) parts.push("status = 'completed' AND completion_result = 'success'");
  const [failed, cancelled] = [chosen.includes("failed"), chosen.includes("cancelled")];
  if (failed && cancelled) parts.push("status = 'completed' AND completion_result = 'failure'");
  else if (failed) parts.push(`status = 'completed' AND completion_result = 'failure' AND NOT (${ended})`);
  else if (cancelled) parts.push(`status = 'completed' AND completion_result = 'failure' AND ${ended}`);
  return parts.map((each) => (parts.length > 1 ? `(${each})` : each)).join(" OR ");
}

/** The filter as conditions, at a moment (ms): spans of time end there. */
export function conditionsOf(filter: Filter, now: number): string[] {
  const column = SORTS[filter.sort];
  const span = SPANS.find((each) => each.value === filter.span);
  const found: (string | null | false)[] = [
    statusCondition(filter.status),
    filter.service.length > 0 && oneOf("target_service_name", filter.service),
    filter.service.length === 0 && !filter.builtIn && BUILT_IN.map((each) => `target_service_name != ${text(each)}`).join(" AND "),
    filter.handler.length > 0 && oneOf("target_handler_name", filter.handler),
    filter.key !== "" && `target_service_key = ${text(filter.key)}`,
    span !== undefined && `${column} >= ${time(new Date(now - span.ms))}`,
    filter.from !== "" && `${column} >= ${time(filter.from)}`,
    filter.to !== "" && `${column} <= ${time(filter.to)}`,
    filter.error !== "" && `last_failure LIKE ${containing(filter.error)} OR completion_failure LIKE ${containing(filter.error)}`,
    filter.where !== "" && filter.where,
  ];
  return found.filter((each): each is string => Boolean(each));
}
