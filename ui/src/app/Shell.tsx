/** What is around every page: the navigation, at the side or (on phones) below; palette, shortcuts, messages. */

import { Component, Suspense, useEffect, useMemo, useState, type ReactNode } from "react";
import { session } from "@/api/client";
import { useCounts, useVersion } from "@/api/queries";
import { Button, IconButton } from "@/design/Button";
import { Dialog } from "@/design/Dialog";
import { Icon } from "@/design/Icon";
import { Empty, ErrorState, SkeletonLines } from "@/design/states";
import { Toasts } from "@/design/toast";
import { useAllCommands, useCommands, type Command } from "./commands";
import { Keys, Palette } from "./Palette";
import { Page } from "./Page";
import { Link, match, navigate, ParamsContext, useAddress } from "./router";
import { NAV, ROUTES } from "./routes";
import { setTheme, useTheme, type Theme } from "./theme";

const ON_PHONES = 4; // entries below; the others are in a drawer
const THEMES: Record<Theme, { icon: "auto" | "sun" | "moon"; title: string; next: Theme }> = {
  auto: { icon: "auto", title: "Theme: as the system has it", next: "light" },
  light: { icon: "sun", title: "Theme: light", next: "dark" },
  dark: { icon: "moon", title: "Theme: dark", next: "auto" },
};

export function Shell() {
  const { path } = useAddress();
  const [dialog, setDialog] = useState<null | "palette" | "shortcuts" | "drawer">(null);
  const [found, params] = useMemo(() => {
    for (const route of ROUTES) {
      const params = match(route.pattern, path);
      if (params) return [route, params] as const;
    }
    return [null, {}] as const;
  }, [path]);

  useGlobalCommands(() => setDialog("shortcuts"));
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        setDialog((now) => (now === "palette" ? null : "palette"));
      }
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  useEffect(() => {
    document.getElementById("main")?.scrollTo(0, 0);
    setDialog(null);
  }, [path]);

  const Shown = found?.page;
  return (
    <div className="shell">
      <a className="skip" href="#main">
        Skip to content
      </a>
      <Navigation section={found?.section} onPalette={() => setDialog("palette")} onMore={() => setDialog("drawer")} onHelp={() => setDialog("shortcuts")} />
      <main id="main" className="main" tabIndex={-1}>
        <ParamsContext value={params}>
          <Boundary key={path}>
            <Suspense fallback={<Loading title={found?.title ?? ""} />}>
              {Shown ? (
                <Shown />
              ) : (
                <Page title="Not found">
                  <Empty title="There is no such page" action={<Button onClick={() => navigate("/")}>Overview</Button>} />
                </Page>
              )}
            </Suspense>
          </Boundary>
        </ParamsContext>
      </main>
      {dialog === "palette" && <Palette onClose={() => setDialog(null)} />}
      {dialog === "shortcuts" && <Shortcuts onClose={() => setDialog(null)} />}
      {dialog === "drawer" && <Drawer section={found?.section} onClose={() => setDialog(null)} />}
      <Toasts />
    </div>
  );
}

function Loading({ title }: { title: string }) {
  return (
    <Page title={title}>
      <SkeletonLines lines={6} />
    </Page>
  );
}

function useGlobalCommands(help: () => void): void {
  const commands: Command[] = NAV.map((entry) => ({
    id: `go-${entry.section}`,
    title: entry.title,
    section: "Go to",
    keys: `g ${entry.key}`,
    run: () => navigate(entry.to),
  }));
  commands.push(
    { id: "theme-light", title: "Light theme", section: "View", run: () => setTheme("light") },
    { id: "theme-dark", title: "Dark theme", section: "View", run: () => setTheme("dark") },
    { id: "theme-auto", title: "Theme of the system", section: "View", run: () => setTheme("auto") },
    { id: "help", title: "Keyboard shortcuts", section: "View", keys: "?", run: help },
  );
  if (session.key() !== null) commands.push({ id: "logout", title: "Sign out", section: "Session", run: () => session.set(null) });
  useCommands(commands);
}

function NavLinks({ section, entries = NAV }: { section: string | undefined; entries?: typeof NAV }) {
  const counts = useCounts();
  return entries.map((entry) => (
    <li key={entry.section}>
      <Link to={entry.to} className="nav-link" aria-current={entry.section === section ? "page" : undefined}>
        <Icon name={entry.icon} />
        <span className="nav-text">{entry.title}</span>
        {entry.section === "approvals" && Boolean(counts.data?.approvals) && (
          <span className="badge accent" title={`${counts.data!.approvals} open`}>
            {counts.data!.approvals}
          </span>
        )}
      </Link>
    </li>
  ));
}

function Navigation(props: { section: string | undefined; onPalette: () => void; onMore: () => void; onHelp: () => void }) {
  return (
    <nav className="nav" aria-label="Pages">
      <Link to="/" className="nav-brand">
        <svg width="20" height="20" viewBox="0 0 32 32" aria-hidden="true">
          <rect width="32" height="32" rx="7" fill="var(--accent-fill)" />
          <path d="M8 9h9M8 16h16M8 23h6M18 23h6" stroke="#fff" strokeWidth="3" strokeLinecap="round" />
        </svg>
        perdure
      </Link>
      <button type="button" className="nav-search" onClick={props.onPalette}>
        <Icon name="search" />
        <span className="grow">Find</span>
        <kbd>Ctrl K</kbd>
      </button>
      <ul className="nav-list">
        <NavLinks section={props.section} />
      </ul>
      <div className="nav-foot">
        <Footer onHelp={props.onHelp} />
      </div>
      <ul className="nav-phone">
        <NavLinks section={props.section} entries={NAV.slice(0, ON_PHONES)} />
        <li>
          <button type="button" className="nav-link" onClick={props.onMore} aria-haspopup="dialog">
            <Icon name="menu" />
            <span className="nav-text">More</span>
          </button>
        </li>
      </ul>
    </nav>
  );
}

function Footer({ onHelp }: { onHelp: () => void }) {
  const theme = useTheme();
  const version = useVersion();
  const { icon, title, next } = THEMES[theme];
  return (
    <>
      <IconButton icon={icon} label={title} onClick={() => setTheme(next)} />
      <IconButton icon="help" label="Keyboard shortcuts" onClick={onHelp} />
      {session.key() !== null && <IconButton icon="key" label="Sign out" onClick={() => session.set(null)} />}
      <span className="nav-version">{version.data?.version}</span>
    </>
  );
}

function Drawer({ section, onClose }: { section: string | undefined; onClose: () => void }) {
  return (
    <Dialog title="perdure" onClose={onClose} side>
      <ul className="drawer-list">
        <NavLinks section={section} />
      </ul>
      <div className="row">
        <Footer onHelp={() => undefined} />
      </div>
    </Dialog>
  );
}

function Shortcuts({ onClose }: { onClose: () => void }) {
  const commands = useAllCommands().filter((each) => each.keys);
  const sections = [...new Set(commands.map((each) => each.section))];
  return (
    <Dialog title="Keyboard shortcuts" onClose={onClose}>
      <div className="shortcuts">
        {sections.map((section) => (
          <div key={section}>
            <h3>{section}</h3>
            <dl>
              {commands
                .filter((each) => each.section === section)
                .map((each) => (
                  <div key={each.id} className="shortcut">
                    <dt>{each.title}</dt>
                    <dd>
                      <Keys keys={each.keys!} />
                    </dd>
                  </div>
                ))}
            </dl>
          </div>
        ))}
        <div className="shortcut">
          <span>Find anything</span>
          <Keys keys="Ctrl K" />
        </div>
      </div>
    </Dialog>
  );
}

/** A page that fails leaves the rest standing. */
class Boundary extends Component<{ children: ReactNode }, { error: Error | null }> {
  override state: { error: Error | null } = { error: null };

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  override render() {
    if (this.state.error === null) return this.props.children;
    return (
      <Page title="This page failed">
        <ErrorState error={this.state.error} retry={() => this.setState({ error: null })} />
      </Page>
    );
  }
}
