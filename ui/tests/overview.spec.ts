import { check, expect, phone, test } from "./console";

test("the overview says what there is", async ({ page, open }) => {
  await open("/");
  const figures = page.getByRole("list", { name: "Invocations that are not completed" });
  await expect(figures.getByRole("link", { name: /Paused/ })).toContainText("1");
  await expect(figures.getByRole("link", { name: /Pending/ })).toContainText("4");
  await expect(page.getByRole("link", { name: /Backing off Billing\/invoice/ })).toContainText("KeyError");
  await expect(page.getByRole("row", { name: /ResearchAgent\/research/ })).toBeVisible();
  await expect(page.getByRole("img", { name: /^Invocations that ended/ })).toBeVisible({ timeout: 30_000 });
  await check(page, "overview");
});

test("its figures lead to the invocations", async ({ page, open }) => {
  await open("/");
  await page.getByRole("link", { name: "Paused 1" }).click();
  await expect(page).toHaveURL(/\/ui\/invocations\?status=paused$/);
  await expect(page.getByRole("row", { name: /Billing ?\/ ?export/ })).toBeVisible();
});

test("a chart is read with the pointer and with keys", async ({ page, open }) => {
  await open("/");
  const chart = page.getByRole("img", { name: /^Invocations that ended/ });
  await expect(chart).toBeVisible({ timeout: 30_000 });
  await chart.focus();
  await page.keyboard.press("ArrowLeft");
  await expect(page.locator(".chart-at").first()).toHaveText(/\d\d:\d\d:\d\d/);
});

test("on a phone", async ({ page, open }) => {
  await page.setViewportSize(phone);
  await open("/");
  await check(page, "overview-phone");
});
