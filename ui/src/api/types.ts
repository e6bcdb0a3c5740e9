/** Shapes of the admin API's answers, as far as the console reads them: docs/http-api.md. */

export type InvocationStatus =
  | "scheduled"
  | "pending"
  | "ready"
  | "running"
  | "backing-off"
  | "suspended"
  | "paused"
  | "completed";

/** What is shown as one status: an invocation's, with how it ended. */
export type ShownStatus = Exclude<InvocationStatus, "completed"> | "succeeded" | "failed" | "cancelled";

export interface InvocationRow {
  id: string;
  target: string;
  target_service_name: string;
  target_service_key?: string;
  target_handler_name: string;
  target_service_ty: "service" | "virtual_object" | "workflow";
  status: InvocationStatus;
  completion_result?: "success" | "failure";
  completion_failure?: string;
  created_at: string;
  modified_at: string;
  completed_at?: string;
  scheduled_start_at?: string;
  running_at?: string;
  next_retry_at?: string;
  retry_count?: number;
  last_failure?: string;
  journal_size?: number;
  pinned_deployment_id?: string;
  invoked_by_id?: string;
}

export interface HandlerInfo {
  name: string;
  ty: "Exclusive" | "Shared" | "Workflow" | null;
  documentation: string | null;
  metadata: Record<string, string>;
  input_description: string;
  output_description: string;
  input_json_schema?: unknown;
  output_json_schema?: unknown;
  public: boolean;
  [more: string]: unknown;
}

export interface ServiceInfo {
  name: string;
  ty: "Service" | "VirtualObject" | "Workflow";
  handlers: HandlerInfo[];
  documentation: string | null;
  metadata: Record<string, string>;
  deployment_id: string;
  revision: number;
  public: boolean;
  [more: string]: unknown;
}

export interface Version {
  version: string;
  ingress_endpoint: string | null;
}

export interface BatchAnswer {
  succeeded: (string | { old_invocation_id: string; new_invocation_id: string })[];
  failed: { invocation_id: string; error: string }[];
}

/** `GET /overview`. Arrays have one number for each of `times`, the oldest first. */
export interface Overview {
  version: string;
  started_at: string;
  ready: boolean;
  /** Invocations that are not completed, by status; null while they are being counted. */
  statuses: Record<string, number> | null;
  now: string;
  attempts: { running: number; elsewhere: number; waiting: number };
  /** Commands that wait for a batch. */
  queued: number;
  storage: Record<string, number>;
  handlers: HandlerNumbers[];
  history: {
    /** Ms since the epoch: the end of each interval. */
    times: number[];
    interval_ms: number;
    attempts: number[];
    succeeded: number[];
    failed: number[];
    step_failures: number[];
    /** Of invocations that ended in the interval, from acceptance to their end, ms; null if none did. */
    p50: (number | null)[];
    p95: (number | null)[];
    p99: (number | null)[];
    running: number[];
    waiting: number[];
    loop_lag: (number | null)[];
  };
}

/** Of one handler, over the time of `history`. */
export interface HandlerNumbers {
  service: string;
  handler: string;
  running: number;
  succeeded: number;
  failed: number;
  step_failures: number;
  attempts_failed: number;
  p50: number | null;
  p95: number | null;
  /** Invocations that ended, by interval. */
  ended: number[];
}
