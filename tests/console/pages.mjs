// Uses every page of the console: node pages.mjs BROWSER ADMIN_URL INVOCATIONS(JSON) DIRECTORY
//
// In both themes: no error in the browser's console, no violation that axe finds, nothing wider than a phone. And as a person
// would: answers an approval, cancels, edits state, calls a handler, asks in SQL. Problems are printed, one line each.
// With PERDURE_SCREENSHOTS=DIRECTORY it keeps a picture of every page in both themes.
import { createRequire } from "node:module";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const { chromium } = require("@playwright/test");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [browserPath, admin, told, directory] = process.argv.slice(2);
const made = JSON.parse(told);
const shots = process.env.PERDURE_SCREENSHOTS;
const problems = [];
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const browser = await chromium.launch({ executablePath: browserPath, args: FLAGS });

async function opened(theme, size, bypass = false) {
  const context = await browser.newContext({ colorScheme: theme, viewport: size, bypassCSP: bypass });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") problems.push(`${page.url()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => problems.push(`${page.url()}: ${error.message}`));
  return page;
}

const approval = (await (await fetch(`${admin}/approvals?status=open`)).json()).approvals.find((each) => each.requester.invocation_id === made.approval).id;
const PAGES = {
  overview: "/",
  invocations: "/invocations",
  invocation: `/invocations/${made.research}?entry=1`,
  failing: `/invocations/${made.backing_off}`,
  suspended: `/invocations/${made.sleeping}`,
  streams: `/invocations/${made.chat}?tab=streams`,
  called: `/invocations/${made.tree}?tab=called`,
  compare: `/invocations/${made.research}/compare/${made.tree}`,
  approvals: `/approvals/${approval}`,
  state: "/state",
  object: "/state/Inventory/warehouse-1",
  services: "/services",
  service: "/services/Inventory",
  playground: "/services/Billing/validate/call",
  deployments: "/deployments",
  sql: "/sql?q=SELECT%20status%2C%20COUNT(*)%20AS%20n%20FROM%20sys_invocation%20GROUP%20BY%201",
};

async function settled(page) {
  await page.waitForSelector("h1");
  await page.waitForFunction(() => document.querySelector(".skeleton, .skeleton-lines") === null);
  await page.evaluate(() => document.fonts.ready);
}

for (const theme of ["light", "dark"]) {
  const page = await opened(theme, { width: 1280, height: 860 }, true);
  for (const [name, path] of Object.entries(PAGES)) {
    await page.goto(`${admin}/ui${path}`);
    await settled(page);
    await page.evaluate(axe);
    const found = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] }));
    for (const each of found.violations) problems.push(`${name}, ${theme}: ${each.id}: ${each.help}: ${each.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`);
    if (shots) {
      mkdirSync(shots, { recursive: true });
      await page.screenshot({ path: join(shots, `${name}-${theme}.png`) });
    }
  }
  await page.context().close();
}

const phone = await opened("light", { width: 390, height: 844 });
for (const [name, path] of Object.entries(PAGES)) {
  await phone.goto(`${admin}/ui${path}`);
  await settled(phone);
  const wide = await phone.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wide > 0) problems.push(`${name} is ${wide} px wider than a phone`);
}
await phone.context().close();

async function as(what, does) {
  const page = await opened("light", { width: 1280, height: 860 });
  try {
    await does(page);
  } catch (error) {
    problems.push(`${what}: ${String(error).slice(0, 600)}`);
    await page.screenshot({ path: join(directory, `${what.replaceAll(" ", "-")}.png`) });
  }
  await page.context().close();
}

await as("the list of invocations", async (page) => {
  const began = Date.now();
  await page.goto(`${admin}/ui/invocations?service=ResearchAgent`);
  await page.locator(`a[href*="${made.research}"]`).first().waitFor();
  if (Date.now() - began > 5000) throw new Error(`it took ${Date.now() - began} ms`);
});

await as("an entry of the timeline", async (page) => {
  await page.goto(`${admin}/ui/invocations/${made.research}`);
  await page.getByRole("button", { name: /gpt-4\.1-mini/ }).first().click();
  await page.getByText(/\d+ in, \d+ out/).waitFor();
  if (!page.url().includes("entry=1")) throw new Error(`the address does not say it: ${page.url()}`);
});

await as("an approval", async (page) => {
  await page.goto(`${admin}/ui/approvals/${approval}`);
  await page.getByRole("button", { name: "Approve" }).click(); // the amount is missing
  await page.locator(".field-error, .toast").first().waitFor();
  await page.getByLabel(/amount/).fill("100");
  await page.getByRole("button", { name: "Approve" }).click();
  await page.getByText(/^Approved/).first().waitFor();
});

await as("a cancellation", async (page) => {
  await page.goto(`${admin}/ui/invocations/${made.sleeping}`);
  await page.getByRole("button", { name: "Cancel", exact: true }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel", exact: true }).click();
  await page.getByText("Cancelled").first().waitFor();
});

await as("a restart from an entry", async (page) => {
  await page.goto(`${admin}/ui/invocations/${made.failed}?entry=1`);
  await page.getByRole("button", { name: "Restart from here" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Restart", exact: true }).click();
  await page.waitForURL((address) => !address.pathname.includes(made.failed));
  await page.getByRole("link", { name: "compare" }).click();
  await page.getByText(/They did the same things|They part at entry/).waitFor();
});

await as("an edit of state", async (page) => {
  await page.goto(`${admin}/ui/state/Inventory/shelf-1`);
  await page.getByRole("button", { name: "Add a name" }).click();
  await page.getByLabel("Name", { exact: true }).fill("checked_by");
  await page.getByLabel("Value, as JSON").fill('"ann"');
  await page.getByRole("button", { name: "Store" }).click();
  await page.getByRole("heading", { name: "checked_by" }).waitFor();
});

await as("a call of a handler", async (page) => {
  await page.goto(`${admin}/ui/services/Billing/validate/call`);
  await page.getByLabel(/Value/).fill("X-1");
  await page.getByRole("button", { name: "Call", exact: true }).click();
  await page.getByText("has no address").waitFor();
  await page.getByRole("link", { name: /inv_1/ }).waitFor();
});

await as("a query", async (page) => {
  await page.goto(`${admin}/ui/sql`);
  await page.getByLabel("Query").fill("SELECT 20 + 22 AS answer");
  await page.getByLabel("Query").press("Control+Enter");
  await page.getByRole("cell", { name: "42" }).waitFor();
  await page.getByLabel("Query").fill("SELEKT");
  await page.getByRole("button", { name: "Run" }).click();
  await page.getByRole("alert").waitFor();
});

await as("the palette", async (page) => {
  await page.goto(`${admin}/ui/`);
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.keyboard.press("Control+k");
  await page.keyboard.type("deployments");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Deployments", level: 1 }).waitFor();
});

await browser.close();
const expected = /the server responded with a status of (400|422|500)/; // a query that is wrong, a handler that fails
const bad = problems.filter((each) => !expected.test(each));
for (const each of bad) console.log(each);
process.exit(bad.length === 0 ? 0 : 1);
