/**
 * What every test of a page uses: `test` fails on anything that the browser's console calls an error; `seed` says which
 * invocations there are; `check` looks at a page in both themes: axe, and (with PERDURE_SCREENSHOTS) a picture for docs.
 */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { expect, test as base, type Page } from "@playwright/test";

export { expect } from "@playwright/test";

export interface Seed {
  admin: string;
  ingress: string;
  /** Ids by what they show: see `populate` in tests/console/seed.py. */
  invocations: Record<string, string>;
  /** By role; none where no key is asked for. */
  keys: Record<string, string>;
}

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const pictures = fileURLToPath(new URL("../../docs/console", import.meta.url));
const read = (name: string): Seed => JSON.parse(process.env[name] ?? "null") as Seed;

interface Fixtures {
  seed: Seed;
  /** Opens a page of the console by its path, and waits until what it asks for has come. */
  open: (path: string, seed?: Seed) => Promise<void>;
  /** Errors that a test means to have, as parts of their text. */
  expected: string[];
  quiet: void;
}

export const secured = (): Seed => read("PERDURE_CONSOLE_SECURED");

export const test = base.extend<Fixtures>({
  seed: async ({}, use) => use(read("PERDURE_CONSOLE")),
  expected: async ({}, use) => use([]),
  open: async ({ page, seed }, use) => {
    await use(async (path, where = seed) => {
      await page.goto(`${where.admin}/ui${path}`);
      await settled(page);
    });
  },
  quiet: [
    async ({ page, expected }, use) => {
      const errors: string[] = [];
      page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
      page.on("pageerror", (error) => errors.push(error.message));
      await use();
      expect(errors.filter((each) => !expected.some((part) => each.includes(part)))).toEqual([]);
    },
    { auto: true },
  ],
});

/** No skeleton is left: everything that is shown has come. */
export async function settled(page: Page): Promise<void> {
  await expect(page.locator("h1").first()).toBeVisible();
  await expect(page.locator(".skeleton")).toHaveCount(0, { timeout: 15_000 });
}

interface Violation {
  id: string;
  help: string;
  nodes: { html: string; failureSummary?: string }[];
}

export async function accessible(page: Page): Promise<void> {
  await page.evaluate(axe);
  const found = await page.evaluate(async () => {
    const run = (window as unknown as { axe: { run: (options: object) => Promise<{ violations: Violation[] }> } }).axe.run;
    return (await run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] })).violations;
  });
  const said = found.map((each) => `${each.id}: ${each.help}\n${each.nodes.map((node) => `  ${node.html}\n  ${node.failureSummary ?? ""}`).join("\n")}`);
  expect(said.join("\n")).toBe("");
}

/** Nothing is wider than the window. */
export async function fits(page: Page): Promise<void> {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  expect(over).toBeLessThanOrEqual(0);
  const main = await page.evaluate(() => {
    const element = document.getElementById("main");
    return element ? element.scrollWidth - element.clientWidth : 0;
  });
  expect(main).toBeLessThanOrEqual(0);
}

/** As it is now, in both themes: accessible, and pictured as `docs/console/NAME-THEME.png`. */
export async function check(page: Page, name: string): Promise<void> {
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    await accessible(page);
    await fits(page);
    if (process.env["PERDURE_SCREENSHOTS"]) await page.screenshot({ path: `${pictures}/${name}-${colorScheme}.png` });
  }
}

export const phone = { width: 390, height: 844 };
