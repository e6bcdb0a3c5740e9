/** Starts a server with agents that do everything the console shows, unless `PERDURE_CONSOLE` has what one printed. */

import { spawn, type ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

export default async function setup(): Promise<() => Promise<void>> {
  if (process.env["PERDURE_CONSOLE"]) return async () => undefined;
  const rows = process.env["PERDURE_CONSOLE_ROWS"] ?? "100000";
  const open = start(["--rows", rows]);
  const secured = start(["--keys"]);
  try {
    const [one, two] = await Promise.all([open.said, secured.said]);
    process.env["PERDURE_CONSOLE"] = one;
    process.env["PERDURE_CONSOLE_SECURED"] = two;
  } catch (error) {
    await Promise.all([open.stop(), secured.stop()]);
    throw error;
  }
  return async () => void (await Promise.all([open.stop(), secured.stop()]));
}

function start(options: string[]): { said: Promise<string>; stop: () => Promise<void> } {
  const python = process.env["PERDURE_PYTHON"] ?? `${root}.venv/bin/python`;
  const env = { ...process.env, PYTHONPATH: [`${root}src`, root, process.env["PYTHONPATH"]].filter(Boolean).join(":") };
  const child: ChildProcess = spawn(python, ["-m", "tests.console.seed", "--until-eof", ...options], { cwd: root, env, stdio: ["pipe", "pipe", "pipe"] });
  let errors = "";
  child.stderr!.on("data", (text: Buffer) => (errors = (errors + text.toString()).slice(-4000)));
  const said = new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout! }).once("line", resolve);
    child.once("exit", (code) => reject(new Error(`the seeded server ended with ${code}:\n${errors}`)));
  });
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  return {
    said,
    stop: async () => {
      child.stdin!.end();
      await ended;
    },
  };
}
