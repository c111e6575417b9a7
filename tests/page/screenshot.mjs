// Draws docs/page.png, while `rtspecinv serve` runs: node tests/page/screenshot.mjs CHROMIUM URL FILE [WIDTH HEIGHT]

import { launch, placeOf, state } from "./browser.mjs";

const [, , executablePath, url, path, width = 1100, height = 720] = process.argv;

const browser = await launch(executablePath);
const page = await browser.newPage({ viewport: { width: Number(width), height: Number(height) } });
await page.goto(url);
await page.selectOption("#where", "local"); // a busy server would show as underflows
await page.click("#start");
await state(page, "ready");

/** Paint along a curve of heights. */
async function paint(brush, from, to, curve) {
  await page.check(`input[value=${brush}]`);
  await page.mouse.move(...(await placeOf(page, from, curve(0))));
  await page.mouse.down();
  for (let i = 1; i <= 40; i++) {
    await page.mouse.move(...(await placeOf(page, from + ((to - from) * i) / 40, curve(i / 40))));
    await page.waitForTimeout(20);
  }
  await page.mouse.up();
}

await paint("harmonics", 40, 300, (a) => 0.72 + 0.05 * Math.sin(8 * a));
await paint("harmonics", 320, 480, (a) => 0.78 - 0.15 * a);
await paint("noise", 250, 400, (a) => 0.2 - 0.08 * a);
await paint("line", 60, 240, (a) => 0.35 - 0.2 * a * a);
await page.waitForTimeout(1500);
await page.screenshot({ path });
await browser.close();
