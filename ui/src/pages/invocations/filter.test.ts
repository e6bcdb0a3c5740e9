import { expect, test } from "vitest";
import { where } from "@/api/sql";
import { conditionsOf, filterOf, isNarrow } from "./filter";

const sql = (search: string) => where(conditionsOf(filterOf(new URLSearchParams(search)), Date.UTC(2026, 0, 2)));

test("nothing is chosen", () => {
  expect(sql("built-in=true")).toBe("");
  expect(sql("")).toMatch(/^WHERE \(target_service_name != 'PerdureApprovals' AND /);
  expect(isNarrow(filterOf(new URLSearchParams("sort=modified&built-in=true")))).toBe(false);
});

test("what is typed is a value, not SQL", () => {
  expect(sql("service=a'b&key=it's")).toBe("WHERE (target_service_name = 'a''b') AND (target_service_key = 'it''s')");
  expect(sql("service=a&error=50%25_off")).toContain("LIKE '%50\\%\\_off%'");
});

test("a condition of one's own stays its own", () => {
  expect(sql("service=a&where=retry_count > 1 OR true")).toBe("WHERE (target_service_name = 'a') AND (retry_count > 1 OR true)");
});

test("statuses, how it ended among them", () => {
  expect(sql("service=a&status=paused&status=running")).toContain("(status IN ('paused', 'running'))");
  expect(sql("service=a&status=succeeded")).toContain("(status = 'completed' AND completion_result = 'success')");
  expect(sql("service=a&status=failed&status=cancelled")).toContain("(status = 'completed' AND completion_result = 'failure')");
});

test("a span ends now", () => {
  expect(sql("service=a&span=24h&sort=modified")).toContain("modified_at >= TIMESTAMP '2026-01-01T00:00:00.000Z'");
});
