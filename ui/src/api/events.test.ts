import { expect, test } from "vitest";
import { EventParser } from "./events";

const TEXT = 'retry: 1000\n\nid: 1.1.4.0-0\ndata: "The sky "\n\nevent: bytes\nid: 1.1.4.0-1\ndata: AP8=\n\n:\n\nevent: end\nid: 1.1.4.0-1.end\ndata: {"status":\ndata: "succeeded"}\n\n';

test("events are whole however they are cut", () => {
  const whole = new EventParser().push(TEXT);
  expect(whole).toEqual([
    { event: "message", data: '"The sky "', id: "1.1.4.0-0" },
    { event: "bytes", data: "AP8=", id: "1.1.4.0-1" },
    { event: "end", data: '{"status":\n"succeeded"}', id: "1.1.4.0-1.end" },
  ]);
  for (let size = 1; size < 20; size++) {
    const parser = new EventParser();
    const pieces = [];
    for (let at = 0; at < TEXT.length; at += size) pieces.push(...parser.push(TEXT.slice(at, at + size)));
    expect(pieces).toEqual(whole);
  }
});
