/** What many pages ask for. A page's own queries are beside it. */

import { useQuery } from "@tanstack/react-query";
import { get } from "./client";
import { every, LIVE } from "./live";
import { query } from "./sql";
import type { Overview, ServiceInfo, Version } from "./types";

export const useVersion = () =>
  useQuery({ queryKey: ["version"], queryFn: ({ signal }) => get<Version>("/version", signal), staleTime: Infinity });

export const useServices = () =>
  useQuery({
    queryKey: ["services"],
    queryFn: async ({ signal }) => (await get<{ services: ServiceInfo[] }>("/services", signal)).services,
    refetchInterval: every(LIVE.slow),
  });

/** Numbers of the whole server, and how they went lately: cheap to ask for. */
export const useOverview = () =>
  useQuery({
    queryKey: ["overview"],
    queryFn: ({ signal }) => get<Overview>("/overview", signal),
    refetchInterval: every(LIVE.normal),
  });

/** What the navigation shows. */
export const useCounts = () =>
  useQuery({
    queryKey: ["counts"],
    queryFn: async ({ signal }) => {
      const [row] = await query<{ approvals: number }>("SELECT COUNT(*) AS approvals FROM sys_approval WHERE status = 'open'", signal);
      return { approvals: row?.approvals ?? 0 };
    },
    refetchInterval: every(LIVE.slow),
    retry: false,
  });
