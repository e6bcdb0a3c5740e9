/** What stands where data would: while it comes, when there is none, when it did not come. */

import type { ReactNode } from "react";
import { ApiError } from "@/api/client";
import { Button } from "./Button";
import { Icon } from "./Icon";

/** A grey bar in the place of a text; `width` in characters, or any length. */
export function Skeleton({ width = 12, height }: { width?: number | string; height?: number }) {
  return <span className="skeleton" aria-hidden="true" style={{ width: typeof width === "number" ? `${width}ch` : width, height }} />;
}

export function SkeletonLines({ lines = 3 }: { lines?: number }) {
  const widths = ["72%", "94%", "58%", "81%"];
  return (
    <div className="skeleton-lines" role="status" aria-label="Loading">
      {Array.from({ length: lines }, (_, index) => (
        <Skeleton key={index} width={widths[index % widths.length]!} />
      ))}
    </div>
  );
}

/** Nothing is there: what this would show, and what to do about it. */
export function Empty({ title, children, action }: { title: string; children?: ReactNode; action?: ReactNode }) {
  return (
    <div className="empty">
      <p className="empty-title">{title}</p>
      {children && <div className="muted">{children}</div>}
      {action}
    </div>
  );
}

/** Something did not come. Says what the server said, and offers to ask again. */
export function ErrorState({ error, retry }: { error: unknown; retry?: () => void }) {
  const message = error instanceof Error ? error.message : String(error);
  const code = error instanceof ApiError && error.status > 0 ? `${error.status}${error.body.restate_code ? ` ${error.body.restate_code}` : ""}` : null;
  return (
    <div className="error-state" role="alert">
      <Icon name="warning" />
      <div className="grow">
        <p className="error-message">{message}</p>
        {code && <p className="muted">Status {code}</p>}
      </div>
      {retry && (
        <Button small onClick={retry}>
          Try again
        </Button>
      )}
    </div>
  );
}
