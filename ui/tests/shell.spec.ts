import { accessible, check, expect, phone, secured, settled, test } from "./console";

test("pages are reached by keys, by the palette and by links", async ({ page, open }) => {
  await open("/");
  await page.keyboard.press("g");
  await page.keyboard.press("i");
  await expect(page).toHaveURL(/\/ui\/invocations$/);
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox").fill("over");
  await accessible(page);
  await page.keyboard.press("Enter");
  await expect(page).toHaveURL(/\/ui\/$/);
  await page.getByRole("link", { name: "Approvals" }).click();
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("Approvals");
  await page.goBack();
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("Overview");
});

test("an invocation is found by its id", async ({ page, open, seed }) => {
  await open("/");
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox").fill(seed.invocations["research"]!);
  await page.keyboard.press("Enter");
  await expect(page).toHaveURL(new RegExp(`/ui/invocations/${seed.invocations["research"]}$`));
});

test("shortcuts are listed, and what has focus gets it back", async ({ page, open }) => {
  await open("/");
  const help = page.getByRole("button", { name: "Keyboard shortcuts" });
  await help.focus();
  await page.keyboard.press("?");
  await expect(page.getByRole("dialog", { name: "Keyboard shortcuts" })).toBeVisible();
  await accessible(page);
  await page.keyboard.press("Escape");
  await expect(help).toBeFocused();
});

test("the theme is chosen, and kept", async ({ page, open }) => {
  await open("/");
  const button = page.getByRole("button", { name: /^Theme/ });
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await background();
  await button.click();
  await button.click();
  await expect(button).toHaveAccessibleName("Theme: dark");
  expect(await background()).not.toBe(light);
  await page.reload();
  await settled(page);
  expect(await background()).not.toBe(light);
});

test("an unknown page says so", async ({ page, open }) => {
  await open("/no/such/page");
  await expect(page.getByText("There is no such page")).toBeVisible();
});

test("on a phone all pages are within reach", async ({ page, open }) => {
  await page.setViewportSize(phone);
  await open("/");
  await page.getByRole("button", { name: "More" }).click();
  await page.getByRole("dialog").getByRole("link", { name: "SQL" }).click();
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("SQL");
});

test.describe("where keys are asked for", () => {
  test.use({ expected: ["401"] });

  test("one signs in, and out again", async ({ page }) => {
    const { admin, keys } = secured();
    await page.goto(`${admin}/ui/invocations?status=failed`);
    await expect(page.getByText("This server asks for an API key")).toBeVisible();
    await check(page, "login");
    await page.getByLabel("API key").fill("perdure_wrong");
    await page.getByRole("button", { name: "Sign in" }).click();
    await expect(page.getByRole("alert")).toHaveText("This key is not known, or no longer good");
    await page.getByLabel("API key").fill(keys["read-only"]!);
    await page.getByRole("button", { name: "Sign in" }).click();
    await settled(page);
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("Invocations");
    await expect(page).toHaveURL(/status=failed/);
    await page.reload();
    await settled(page);
    await page.getByRole("button", { name: "Sign out" }).click();
    await expect(page.getByLabel("API key")).toBeVisible();
  });
});
