/** Addresses and pages: a page's address says all that it shows, so that every link leads to the same thing. */

import { createContext, useCallback, useContext, useMemo, useSyncExternalStore, type AnchorHTMLAttributes } from "react";

export const BASE = "/ui";

const listeners = new Set<() => void>();
const tell = () => listeners.forEach((each) => each());
window.addEventListener("popstate", tell);

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** `to` is a path of the console, with its query: `/invocations?status=running`. */
export function navigate(to: string, options: { replace?: boolean } = {}): void {
  const address = BASE + to;
  if (address === location.pathname + location.search) return;
  if (options.replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  tell();
}

const addressNow = () => location.pathname.slice(BASE.length) + location.search;

/** The path of the page that is shown, and its query. */
export function useAddress(): { path: string; search: string } {
  const address = useSyncExternalStore(subscribe, addressNow);
  return useMemo(() => {
    const at = address.indexOf("?");
    return { path: (at < 0 ? address : address.slice(0, at)) || "/", search: at < 0 ? "" : address.slice(at) };
  }, [address]);
}

export type Params = Readonly<Record<string, string>>;
export const ParamsContext = createContext<Params>({});

/** The values of the `:names` in the page's path, percent-decoded. */
export const useParams = (): Params => useContext(ParamsContext);

/** Compares a path with a pattern such as `/state/:service/:key`; null if it is another. */
export function match(pattern: string, path: string): Params | null {
  const [wanted, given] = [pattern.split("/"), path.replace(/(.)\/$/, "$1").split("/")];
  if (wanted.length !== given.length) return null;
  const params: Record<string, string> = {};
  for (const [index, part] of wanted.entries()) {
    const value = given[index]!;
    if (!part.startsWith(":")) {
      if (part !== value) return null;
      continue;
    }
    if (value === "") return null;
    try {
      params[part.slice(1)] = decodeURIComponent(value);
    } catch {
      return null;
    }
  }
  return params;
}

/** A path of segments, each percent-encoded: `path("state", service, key)`. */
export const path = (...segments: string[]): string => "/" + segments.map(encodeURIComponent).join("/");

export type SearchChange = Record<string, string | readonly string[] | null | undefined>;

/** The query as it is with some parameters changed; null, "" and [] take one away. */
export function changed(search: string, change: SearchChange): string {
  const params = new URLSearchParams(search);
  for (const [name, value] of Object.entries(change)) {
    params.delete(name);
    for (const each of typeof value === "string" ? [value] : (value ?? [])) if (each !== "") params.append(name, each);
  }
  const text = params.toString();
  return text === "" ? "" : `?${text}`;
}

/** The page's parameters, and how to change them: what filters and tabs are kept in. */
export function useSearch(): [URLSearchParams, (change: SearchChange, options?: { replace?: boolean }) => void] {
  const { search } = useAddress();
  const params = useMemo(() => new URLSearchParams(search), [search]);
  const change = useCallback((change: SearchChange, options: { replace?: boolean } = { replace: true }) => {
    const { pathname, search: now } = location;
    navigate(pathname.slice(BASE.length) + changed(now, change), options);
  }, []);
  return [params, change];
}

/** A link within the console. */
export function Link({ to, onClick, ...rest }: { to: string } & AnchorHTMLAttributes<HTMLAnchorElement>) {
  return (
    <a
      href={BASE + to}
      onClick={(event) => {
        onClick?.(event);
        if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
        event.preventDefault();
        navigate(to);
      }}
      {...rest}
    />
  );
}
