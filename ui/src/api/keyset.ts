/** A list of any length, fetched page by page as it is scrolled to. */

import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { useQueries, type Query, type QueryKey } from "@tanstack/react-query";
import { every } from "./live";
import type { Cursor, PageOf } from "./sql";

export interface Keyset<T> {
  /** How many rows are known, those that are still coming among them. */
  count: number;
  /** Whether the last of them is the last there is. */
  complete: boolean;
  row: (index: number) => T | undefined;
  /** To be told which rows are in view. */
  onRange: (first: number, last: number) => void;
  /** The first page is coming. */
  coming: boolean;
  error: Error | null;
  refetch: () => void;
}

interface Options<T> {
  /** Of what is listed: a list of something else begins at its top. */
  key: QueryKey;
  size: number;
  fetch: (cursor: Cursor | null, signal: AbortSignal) => Promise<PageOf<T>>;
  /** What is in view is asked for again every so many ms, less often if it takes long; 0: it is not. */
  live: number;
}

const DUTY = 10; // what costs the server a second is not asked for more than every ten

/**
 * Where each page begins is kept, the rows of pages that are far away are not. When a page has other rows than before, so
 * that the next one begins elsewhere, those behind it are fetched anew.
 */
export function useKeyset<T>({ key, size, fetch, live }: Options<T>): Keyset<T> {
  const text = JSON.stringify(key);
  const [held, setHeld] = useState<{ text: string; cursors: (Cursor | null)[] }>({ text, cursors: [null] });
  const [range, setRange] = useState<[number, number]>([0, 0]);
  const cursors = held.text === text ? held.cursors : [null];
  const [first, last] = held.text === text ? range : [0, 0];
  const from = Math.min(first, cursors.length - 1);
  const wanted = cursors.map((cursor, page) => ({ cursor, page })).slice(from, last + 2);

  const price = useRef(0); // ms that the last page took
  const timed = async (cursor: Cursor | null, signal: AbortSignal) => {
    const began = performance.now();
    const page = await fetch(cursor, signal);
    price.current = performance.now() - began;
    return page;
  };
  const results = useQueries({
    queries: wanted.map(({ cursor, page }) => ({
      queryKey: [...key, "page", cursor],
      queryFn: ({ signal }: { signal: AbortSignal }) => timed(cursor, signal),
      gcTime: 30_000,
      placeholderData: undefined,
      ...(live > 0 && page >= first && page <= last ? { refetchInterval: (query: Query) => Math.max(every(live)(query), DUTY * price.current) } : {}),
    })),
  });

  const known = useMemo(() => {
    const pages = new Map<number, PageOf<T>>();
    results.forEach((result, index) => result.data && pages.set(wanted[index]!.page, result.data));
    return pages;
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [results.map((each) => each.dataUpdatedAt).join(), text, from, cursors]);

  useEffect(() => {
    let next = cursors;
    for (const [page, { next: behind }] of [...known].sort(([a], [b]) => a - b)) {
      if (page >= next.length || JSON.stringify(next[page + 1] ?? null) === JSON.stringify(behind)) continue;
      next = [...next.slice(0, page + 1), ...(behind === null ? [] : [behind])];
    }
    if (next !== cursors || held.text !== text) setHeld({ text, cursors: next });
  }, [known, cursors, held.text, text]);
  useEffect(() => setRange([0, 0]), [text]);

  const end = known.get(cursors.length - 1);
  const count = (cursors.length - 1) * size + (end ? end.rows.length : cursors.length === 1 ? 0 : size);
  const row = useCallback((index: number) => known.get(Math.floor(index / size))?.rows[index % size], [known, size]);
  const onRange = useCallback(
    (top: number, bottom: number) => {
      const pages: [number, number] = [Math.floor(top / size), Math.floor(bottom / size)];
      setRange((now) => (now[0] === pages[0] && now[1] === pages[1] ? now : pages));
    },
    [size],
  );
  return {
    count,
    complete: end !== undefined && end.next === null,
    row,
    onRange,
    coming: cursors.length === 1 && known.size === 0 && results.every((each) => !each.error),
    error: cursors.length === 1 && known.size === 0 ? (results.find((each) => each.error)?.error ?? null) : null,
    refetch: () => results.forEach((each) => void each.refetch()),
  };
}
