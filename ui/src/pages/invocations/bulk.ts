/** Doing the same to many invocations: what it would touch, and the doing of it, a thousand at a time. */

import { request } from "@/api/client";
import { oneOf, query, where } from "@/api/sql";
import type { BatchAnswer, InvocationStatus } from "@/api/types";
import type { IconName } from "@/design/Icon";

export interface Action {
  verb: "cancel" | "kill" | "pause" | "resume" | "restart-as-new" | "purge";
  title: string;
  done: string;
  icon: IconName;
  danger?: boolean;
  about: string;
  /** To which it can be done; the others are left alone. */
  statuses: readonly InvocationStatus[];
}

const OPEN: readonly InvocationStatus[] = ["scheduled", "pending", "ready", "running", "backing-off", "suspended", "paused"];

export const ACTIONS: readonly Action[] = [
  {
    verb: "cancel", title: "Cancel", done: "cancelled", icon: "close", statuses: OPEN, danger: true,
    about: "Their handlers are told, and may clean up: compensations run.",
  },
  {
    verb: "kill", title: "Kill", done: "killed", icon: "stop", statuses: OPEN, danger: true,
    about: "They end at once, whatever their handlers do. Nothing is cleaned up.",
  },
  {
    verb: "pause", title: "Pause", done: "paused", icon: "pause", statuses: ["ready", "running", "backing-off", "suspended"],
    about: "They stop where they are until somebody resumes them.",
  },
  {
    verb: "resume", title: "Resume", done: "resumed", icon: "play", statuses: ["paused", "backing-off", "suspended"],
    about: "They go on now; those that back off do not wait for their next try.",
  },
  {
    verb: "restart-as-new", title: "Restart", done: "restarted", icon: "restart", statuses: ["completed"],
    about: "Each is run again from its input, under a new id. The old ones stay.",
  },
  {
    verb: "purge", title: "Purge", done: "purged", icon: "trash", statuses: ["completed"], danger: true,
    about: "They are forgotten: results, journals and streams. This cannot be taken back.",
  },
];

/** What is meant: some by their ids, or all that fit conditions. */
export type Meant = { ids: readonly string[] } | { conditions: readonly string[] };

const conditionsOf = (meant: Meant): string[] => ("ids" in meant ? [oneOf("id", meant.ids)] : [...meant.conditions]);

export interface PreviewRow {
  target_service_name: string;
  target_handler_name: string;
  status: InvocationStatus;
  count: number;
}

/** How many there are of what, those that the action cannot touch among them. */
export const preview = (meant: Meant, signal?: AbortSignal): Promise<PreviewRow[]> =>
  query<PreviewRow>(
    `SELECT target_service_name, target_handler_name, status, COUNT(*) AS count FROM sys_invocation ${where(conditionsOf(meant))} GROUP BY 1, 2, 3 ORDER BY 4 DESC`,
    signal,
  );

export interface Progress {
  total: number;
  done: number;
  failures: number;
  /** The first of those that could not be done. */
  failed: { invocation_id: string; error: string }[];
}

const SHOWN = 20;

const BATCH = 1000;
const MOST = 1_000_000;

/**
 * Does it, and tells how far it is; stops before the next thousand when `signal` says so. Which are meant is settled at
 * the beginning: what is made meanwhile, by restarts too, is not touched, and nothing is touched twice.
 */
export async function perform(
  action: Action,
  meant: Meant,
  tell: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<Progress> {
  const progress: Progress = { done: 0, total: 0, failed: [], failures: 0 };
  const conditions = [...conditionsOf(meant), oneOf("status", action.statuses)];
  const found = await query<{ id: string }>(`SELECT id FROM sys_invocation ${where(conditions)} LIMIT ${MOST}`, signal);
  progress.total = found.length;
  for (let from = 0; from < found.length && !signal.aborted; from += BATCH) {
    const ids = found.slice(from, from + BATCH).map((row) => row.id);
    const answer = await request<BatchAnswer>(`/internal/invocations_batch_operations/${action.verb}`, {
      method: "POST",
      json: { invocation_ids: ids },
    });
    progress.done += answer.succeeded.length;
    progress.failures += answer.failed.length;
    progress.failed.push(...answer.failed.slice(0, Math.max(0, SHOWN - progress.failed.length)));
    tell({ ...progress });
  }
  return progress;
}
