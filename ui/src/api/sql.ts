/** SQL over all that is stored: docs/sql.md. */

import { request } from "./client";

/** A row's values; what is null is left out. Times are RFC 3339 text, durations ISO 8601, bytes lower-case hex. */
export type Row = Record<string, unknown>;

export async function query<T extends object = Row>(sql: string, signal?: AbortSignal): Promise<T[]> {
  const answer = await request<{ rows: T[] }>("/query", {
    method: "POST",
    json: { query: sql },
    headers: { accept: "application/json" },
    signal,
  });
  return answer.rows;
}

/** A text as a literal. */
export const text = (value: string): string => `'${value.replaceAll("'", "''")}'`;

/** A time as a literal. */
export const time = (value: Date | string): string =>
  `TIMESTAMP '${typeof value === "string" ? value : value.toISOString()}'`;

/** For LIKE: what is in the pattern stands for itself, and may be anywhere. */
export const containing = (value: string): string => text(`%${value.replace(/[\\%_]/g, "\\$&")}%`);

export const oneOf = (column: string, values: readonly string[]): string =>
  values.length === 1 ? `${column} = ${text(values[0]!)}` : `${column} IN (${values.map(text).join(", ")})`;

/** Conditions joined; an empty list is true. Each is put in parentheses, so that a user's own OR stays its own. */
export function where(conditions: readonly (string | null | undefined | false)[]): string {
  const held = conditions.filter((each): each is string => Boolean(each));
  return held.length === 0 ? "" : `WHERE ${held.map((each) => `(${each})`).join(" AND ")}`;
}

/**
 * Where a page begins: at this time, behind so many rows of the same millisecond. That is what the store can look up;
 * a condition on the id as well would have it read everything.
 */
export interface Cursor {
  at: string;
  skip: number;
}

export interface PageOf<T> {
  rows: T[];
  /** Where the next one begins; null if there is none. */
  next: Cursor | null;
}

/**
 * One page of a list that is sorted by a time, the newest first, and by id. `select` begins with SELECT and ends before
 * WHERE; `column` has to be among what is selected, under its own name, and so has `id`.
 */
export async function pageOf<T extends object>(
  select: string,
  conditions: readonly (string | null | undefined | false)[],
  column: string,
  cursor: Cursor | null,
  size: number,
  signal?: AbortSignal,
): Promise<PageOf<T>> {
  const skip = cursor?.skip ?? 0;
  const from = cursor && `${column} <= ${time(cursor.at)}`;
  const sql = `${select} ${where([...conditions, column === "completed_at" && "completed_at IS NOT NULL", from])} ORDER BY ${column} DESC, id DESC LIMIT ${size + 1 + skip}`;
  const found = (await query<T>(sql, signal)).slice(skip);
  const rows = found.slice(0, size);
  if (found.length <= size) return { rows, next: null };
  const at = (row: T) => (row as Row)[column] as string;
  const last = at(rows.at(-1)!);
  const alike = rows.filter((row) => at(row) === last).length;
  return { rows, next: { at: last, skip: alike + (alike === rows.length && cursor?.at === last ? skip : 0) } };
}
