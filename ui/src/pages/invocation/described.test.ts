import { expect, test } from "vitest";
import { spansOf, ticks, type Entry } from "./described";

const entry = (index: number, kind: string, more: Partial<Entry> = {}): Entry => ({ index, kind, appended_at: new Date(1000 * index).toISOString(), ...more });

test("answers end their commands and are no rows", () => {
  const spans = spansOf([
    entry(0, "Input"),
    entry(1, "Run", { completion_id: 1, name: "model gpt" }),
    entry(2, "Call", { completion_id: 3, invocation_id_completion_id: 2, service: "Notes", key: "k", handler: "add" }),
    entry(3, "Completion", { completion_id: 2, result: { kind: "InvocationIdResult", invocation_id: "inv_1x" } }),
    entry(4, "Completion", { completion_id: 1, result: { kind: "Failure", code: 500, message: "no" } }),
    entry(5, "Sleep", { completion_id: 4 }),
  ]);
  expect(spans.map((each) => [each.kind, each.title, each.end === null ? null : each.end - each.begin, each.failed, each.calls])).toEqual([
    ["mark", "input", 0, false, null],
    ["model", "model gpt", 3000, true, null],
    ["call", "Notes/k/add", null, false, "inv_1x"],
    ["wait", "sleep", null, false, null],
  ]);
});

test.each([1, 30, 877, 5_000, 3_600_000, 9e9])("an axis of %d ms has few ticks, all within it", (length) => {
  const found = ticks(length, 5);
  expect(found[0]).toBe(0);
  expect(found.length).toBeLessThanOrEqual(6);
  expect(found.at(-1)).toBeLessThanOrEqual(length);
});
