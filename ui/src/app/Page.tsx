/** The frame of a page: its title, what can be done, its content. */

import { useEffect, type ReactNode } from "react";
import { Link } from "./router";
import { Icon } from "@/design/Icon";

interface PageProps {
  title: string;
  /** Above the title: where this belongs. */
  trail?: readonly { title: string; to: string }[];
  /** Beside the title: what it is, how it stands. */
  aside?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
  /** Fills the window, and what is in it scrolls: for long tables. */
  fill?: boolean;
}

export function Page({ title, trail, aside, actions, children, fill }: PageProps) {
  useEffect(() => {
    document.title = `${title} · perdure`;
  }, [title]);
  return (
    <div className={fill ? "page fill" : "page"}>
      <header className="page-head">
        <div className="page-title">
          {trail && (
            <nav className="trail" aria-label="Where this is">
              {trail.map((each) => (
                <span key={each.to} className="row">
                  <Link to={each.to}>{each.title}</Link>
                  <Icon name="chevron" size={12} />
                </span>
              ))}
            </nav>
          )}
          <div className="row wrap">
            <h1 className="truncate" title={title} tabIndex={-1}>
              {title}
            </h1>
            {aside}
          </div>
        </div>
        {actions && <div className="page-actions">{actions}</div>}
      </header>
      {children}
    </div>
  );
}

/** A part of a page, with a heading of its own. */
export function Panel({ title, aside, children, flush }: { title?: string; aside?: ReactNode; children: ReactNode; flush?: boolean }) {
  return (
    <section className={flush ? "panel flush" : "panel"} aria-label={title}>
      {title && (
        <header className="panel-head">
          <h2>{title}</h2>
          {aside}
        </header>
      )}
      {children}
    </section>
  );
}
