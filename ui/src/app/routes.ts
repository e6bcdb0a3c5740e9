/** Every page of the console. A page is a default export of a file of its own, loaded when it is first shown. */

import { lazy, type ComponentType, type LazyExoticComponent } from "react";
import type { IconName } from "@/design/Icon";

export interface Route {
  pattern: string;
  title: string;
  page: LazyExoticComponent<ComponentType>;
  /** Under which entry of the navigation it is. */
  section: string;
}

export interface NavEntry {
  section: string;
  title: string;
  to: string;
  icon: IconName;
  /** Behind `g`: `g i` goes to invocations. */
  key: string;
}

export const NAV: readonly NavEntry[] = [
  { section: "overview", title: "Overview", to: "/", icon: "overview", key: "o" },
  { section: "invocations", title: "Invocations", to: "/invocations", icon: "invocations", key: "i" },
  { section: "approvals", title: "Approvals", to: "/approvals", icon: "approvals", key: "a" },
  { section: "state", title: "State", to: "/state", icon: "state", key: "s" },
  { section: "services", title: "Services", to: "/services", icon: "services", key: "v" },
  { section: "deployments", title: "Deployments", to: "/deployments", icon: "deployments", key: "d" },
  { section: "sql", title: "SQL", to: "/sql", icon: "sql", key: "q" },
];

const overview = lazy(() => import("@/pages/overview/OverviewPage"));
const invocations = lazy(() => import("@/pages/invocations/InvocationsPage"));
const invocation = lazy(() => import("@/pages/invocation/InvocationPage"));
const comparison = lazy(() => import("@/pages/invocation/ComparePage"));
const state = lazy(() => import("@/pages/state/StatePage"));
const objectState = lazy(() => import("@/pages/state/ObjectPage"));
const approvals = lazy(() => import("@/pages/approvals/ApprovalsPage"));
const services = lazy(() => import("@/pages/services/ServicesPage"));
const service = lazy(() => import("@/pages/services/ServicePage"));
const playground = lazy(() => import("@/pages/playground/PlaygroundPage"));
const deployments = lazy(() => import("@/pages/deployments/DeploymentsPage"));
const deployment = lazy(() => import("@/pages/deployments/DeploymentPage"));
const sql = lazy(() => import("@/pages/sql/SqlPage"));

export const ROUTES: readonly Route[] = [
  { pattern: "/", title: "Overview", page: overview, section: "overview" },
  { pattern: "/invocations", title: "Invocations", page: invocations, section: "invocations" },
  { pattern: "/invocations/:id", title: "Invocation", page: invocation, section: "invocations" },
  { pattern: "/invocations/:id/compare/:other", title: "Compare", page: comparison, section: "invocations" },
  { pattern: "/approvals", title: "Approvals", page: approvals, section: "approvals" },
  { pattern: "/approvals/:id", title: "Approval", page: approvals, section: "approvals" },
  { pattern: "/state", title: "State", page: state, section: "state" },
  { pattern: "/state/:service", title: "State", page: state, section: "state" },
  { pattern: "/state/:service/:key", title: "State", page: objectState, section: "state" },
  { pattern: "/services", title: "Services", page: services, section: "services" },
  { pattern: "/services/:service", title: "Service", page: service, section: "services" },
  { pattern: "/services/:service/:handler/call", title: "Playground", page: playground, section: "services" },
  { pattern: "/deployments", title: "Deployments", page: deployments, section: "deployments" },
  { pattern: "/deployments/:id", title: "Deployment", page: deployment, section: "deployments" },
  { pattern: "/sql", title: "SQL", page: sql, section: "sql" },
];
