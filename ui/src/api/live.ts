/** How often what is shown is asked for again. */

import type { Query } from "@tanstack/react-query";
import { ApiError } from "./client";

/**
 * For `refetchInterval`: every `ms`, less often while the server is troubled (doubling, a minute at most). TanStack Query
 * itself stops while the page is not visible, and asks once when it is again.
 */
export function every(ms: number) {
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  return (query: Query<any, any, any, any>): number => {
    const failures = query.state.fetchFailureCount + (query.state.status === "error" ? 1 : 0);
    const slow = query.state.error instanceof ApiError && query.state.error.status === 429 ? 2 : 1;
    return Math.min(60_000, ms * slow * 2 ** Math.min(failures, 5));
  };
}

/** Usual intervals, ms. */
export const LIVE = { fast: 1_000, normal: 3_000, slow: 15_000 } as const;
