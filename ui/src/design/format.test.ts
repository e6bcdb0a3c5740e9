import { expect, test } from "vitest";
import { bytes, compact, duration, rate, relative } from "./format";

test.each([
  [0, "0 ms"],
  [0.4, "< 1 ms"],
  [340, "340 ms"],
  [1240, "1.2 s"],
  [9960, "10 s"],
  [59_600, "1m"],
  [250_000, "4m 10s"],
  [3_600_000 * 3 + 300_000, "3h 5m"],
  [86_400_000 * 2 + 3_600_000 * 4, "2d 4h"],
  [-1500, "−1.5 s"],
])("a duration of %d ms", (ms, text) => expect(duration(ms)).toBe(text));

test.each([
  [0, "just now"],
  [-12_000, "12s ago"],
  [180_000, "in 3m"],
  [-5 * 86_400_000, "5d ago"],
])("%d ms from now", (away, text) => expect(relative(1e12 + away, 1e12)).toBe(text));

test("numbers", () => {
  expect([compact(9999), compact(1_234_567)]).toEqual(["9,999", "1.2M"]);
  expect([bytes(999), bytes(1500), bytes(123_456_789)]).toEqual(["999 B", "1.5 KB", "123 MB"]);
  expect([rate(0), rate(0.05), rate(3.24), rate(24_000)]).toEqual(["0", "0.05", "3.2", "24K"]);
});
