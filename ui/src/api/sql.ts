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

/** Where a page begins: behind the row of this time and id, in the order in which they are listed. */
export interface Cursor {
  at: string;
  id: string;
}

/**
 * The condition of a page behind `cursor`, by a column of times and by `id`. The first part alone is what the store
 * looks up; the second leaves out the rows of the same millisecond that were on the page before.
 */
export function behind(cursor: Cursor | null, column: string, descending = true): string | null {
  if (cursor === null) return null;
  const [at, id] = [time(cursor.at), text(cursor.id)];
  return descending
    ? `${column} <= ${at} AND (${column} < ${at} OR id < ${id})`
    : `${column} >= ${at} AND (${column} > ${at} OR id > ${id})`;
}
