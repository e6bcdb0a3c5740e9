import { check, expect, phone, settled, test } from "./console";

test("the list is there soon, and is moved about in with keys", async ({ page, open, seed }) => {
  await open("/invocations"); // the server has been asked before: its processes for SQL are there
  await page.reload();
  const grid = page.getByRole("grid", { name: "Invocations" });
  await expect(grid.locator("time").first()).toBeVisible();
  const began = await page.evaluate(() => {
    const all = performance.getEntriesByType("resource") as PerformanceResourceTiming[];
    return Math.max(...all.filter((each) => each.name.endsWith("/query")).map((each) => each.responseEnd));
  });
  expect(began).toBeGreaterThan(0);
  await settled(page);
  await check(page, "invocations");
  await grid.focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  await expect(page.locator(".table-row.active")).toHaveAttribute("aria-rowindex", "4");
  await page.keyboard.press("Enter");
  await expect(page).toHaveURL(/\/ui\/invocations\/inv_/);
  expect(seed.invocations["research"]).toMatch(/^inv_/);
});

test("it goes on when it is scrolled", async ({ page, open }) => {
  await open("/invocations");
  const grid = page.getByRole("grid", { name: "Invocations" });
  const rows = async () => Number(await grid.getAttribute("aria-rowcount"));
  const before = await rows();
  await grid.focus();
  await page.keyboard.press("End");
  await expect.poll(rows).toBeGreaterThan(before);
  await settled(page);
  await page.keyboard.press("End");
  await settled(page);
  await expect(page.locator(".table-row").last()).toBeVisible();
});

test("filters are in the address", async ({ page, open }) => {
  await open("/invocations");
  await page.getByRole("button", { name: "Status" }).click();
  await page.getByLabel("Paused").check();
  await page.getByLabel("Backing off").check();
  await page.keyboard.press("Escape");
  await expect(page).toHaveURL(/status=paused&status=backing-off/);
  await settled(page);
  await expect(page.getByRole("row", { name: /Billing ?\/ ?export/ })).toBeVisible();
  await expect(page.getByRole("row", { name: /Billing ?\/ ?invoice/ })).toBeVisible();
  await page.getByPlaceholder("Error text").fill("expected 7 columns");
  await expect(page.getByRole("row", { name: /Billing ?\/ ?invoice/ })).toHaveCount(0);
  await page.reload();
  await settled(page);
  await expect(page.getByPlaceholder("Error text")).toHaveValue("expected 7 columns");
  await check(page, "invocations-filtered");
  await page.getByRole("button", { name: "Clear", exact: true }).click();
  await expect(page).toHaveURL(/\/ui\/invocations$/);
});

test.describe("with mistakes", () => {
  test.use({ expected: ["500", "400"] });

  test("a condition of one's own, and what is wrong with it", async ({ page, open }) => {
    await open("/invocations");
    await page.getByRole("button", { name: "SQL" }).click();
    const field = page.getByLabel("Condition in SQL");
    await field.fill("target_service_key = 'warehouse-1' AND status = 'pending'");
    await page.getByRole("button", { name: "Apply" }).click();
    await settled(page);
    await expect(page.getByRole("row", { name: /warehouse-1/ })).toHaveCount(4);
    await field.fill("nonsense = 1");
    await page.getByRole("button", { name: "Apply" }).click();
    await expect(page.getByRole("alert")).toContainText("nonsense");
    await check(page, "invocations-error");
  });
});

test("nothing fits", async ({ page, open }) => {
  await open("/invocations?service=Nobody");
  await expect(page.getByText("Nothing fits")).toBeVisible();
  await check(page, "invocations-empty");
});

test("what is done to many is shown before", async ({ page, open }) => {
  await open("/invocations?service=Inventory&where=target_service_key = 'warehouse-1'");
  await page.getByRole("checkbox", { name: "Select all that are loaded" }).check();
  await page.getByRole("button", { name: "Pause" }).click();
  const dialog = page.getByRole("dialog");
  await expect(dialog.getByRole("row", { name: /Inventory\/recount.*Suspended.*1/ })).toBeVisible();
  await expect(dialog.getByText("4 others are left alone")).toBeVisible();
  await check(page, "invocations-bulk");
  await dialog.getByRole("button", { name: "Pause 1" }).click();
  await expect(page.getByText("1 invocation paused")).toBeVisible();
  await expect(page.getByRole("row", { name: /Paused/ })).toHaveCount(1);
  await page.getByRole("checkbox", { name: "Select all that are loaded" }).check();
  await page.getByRole("button", { name: "Resume" }).click();
  await dialog.getByRole("button", { name: "Resume 1" }).click();
  await expect(page.getByText("1 invocation resumed")).toBeVisible();
});

test("on a phone", async ({ page, open }) => {
  await page.setViewportSize(phone);
  await open("/invocations?service=Billing&service=Inventory");
  await check(page, "invocations-phone");
});
