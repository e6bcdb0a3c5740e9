// What the endpoint is told by its environment, and the files that make its side effects visible to the tests.
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

export const PREFIX = process.env.PREFIX ?? "";
export const VERSION = process.env.VERSION ?? "v1";
const DIRECTORY = process.env.WITNESS_DIR;

/** Append a line; how many there are with it. */
export function note(witness, text = "") {
  const path = join(DIRECTORY, witness);
  appendFileSync(path, `${text}\n`);
  return readFileSync(path, "utf8").split("\n").length - 1;
}

export const isOpen = (gate) => existsSync(join(DIRECTORY, `${gate}.open`));

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export async function opened(gate) {
  while (!isOpen(gate)) await pause(10);
}
