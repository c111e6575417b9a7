// What drive.mjs and screenshot.mjs share.

import { chromium } from "playwright-core";

/** Chromium without a screen, whose sound card and microphone are its own. */
export const launch = (executablePath) => chromium.launch({ executablePath, args: [
  "--no-sandbox", "--autoplay-policy=no-user-gesture-required",
  "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
] });

/** Wait until the page says that it is "ready", "lost" or "closed". */
export const state = (page, name) => page.waitForSelector(`#status[data-state=${name}]`, { timeout: 20000 });

/** Where a column and a height, 0 to 1 from above, are on the screen. */
export async function placeOf(page, column, y) {
  const { x, y: top, width, height } = await page.locator("#score").boundingBox();
  return [x + ((column + 0.5) / 512) * width, top + y * height];
}
