// Opens a page in headless Chromium and prints, as JSON, what is wrong with it.
//   node look.mjs page.html [screenshot.png] [page.pdf]
import { pathToFileURL } from "node:url";
import axe from "axe-core";
import { chromium } from "playwright-core";

const [file, screenshot, pdf] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ...(process.env.NO_WEBGL ? ["--disable-3d-apis"] : []),
  ],
});
try {
  // The page's own policy forbids scripts, axe among them.
  const context = await browser.newContext({ bypassCSP: true, viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  const messages = [];
  const requests = [];
  page.on("console", (message) => messages.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => messages.push(`error: ${error.message}`));
  page.on("request", (request) => {
    if (!request.url().startsWith("data:")) requests.push(request.url());
  });
  const address = pathToFileURL(file).href;
  await page.goto(address, { waitUntil: "load" });

  // With the keyboard alone: which elements take the focus, in which order.
  const focused = [];
  for (let n = 0; n < 12; n++) {
    await page.keyboard.press("Tab");
    focused.push(await page.evaluate(() => document.activeElement.textContent.trim() || document.activeElement.id));
  }
  const outlinesShown = () =>
    page.evaluate(() => {
      const first = document.querySelector(".outlines");
      return first === null ? null : getComputedStyle(first).display !== "none";
    });
  const shown = [await outlinesShown()];
  if (shown[0] !== null) {
    await page.focus("#outlines");
    await page.keyboard.press("Space");
    shown.push(await outlinesShown());
    await page.keyboard.press("Space");
  }
  const result = {
    title: await page.title(),
    images: await page.evaluate(() => document.querySelectorAll("svg image").length),
    scripts: await page.evaluate(() => document.scripts.length),
    overflow: await page.evaluate(() => document.documentElement.scrollWidth > innerWidth),
    focused,
    outlines: shown,
    viewer: await page.evaluate(() => document.querySelector("#viewer-place")?.textContent),
  };
  await page.evaluate(() => scrollTo(0, 0));
  if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
  if (pdf) await page.pdf({ path: pdf, format: "A4", printBackground: true });
  await page.setViewportSize({ width: 390, height: 800 });
  result.narrowOverflow = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  await page.setViewportSize({ width: 1280, height: 900 });
  result.messages = [...messages];
  result.requests = requests.filter((url) => url.split("#")[0] !== address);
  // As wide as paper within its margins, A4 and Letter, what is wider than its place is cut off.
  await page.emulateMedia({ media: "print" });
  result.printOverflow = [];
  for (const width of [688, 710]) {
    await page.setViewportSize({ width, height: 900 });
    result.printOverflow.push(...await page.evaluate(() =>
      [document.documentElement, ...document.querySelectorAll(".scroll, .card, .montage, dl")]
        .filter((each) => each.scrollWidth > each.clientWidth + 1)
        .map((each) => `${each.tagName} ${each.className}`)));
  }
  await page.emulateMedia({ media: null });
  await page.setViewportSize({ width: 1280, height: 900 });
  result.violations = [];
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.evaluate(axe.source);
    const judged = await page.evaluate(() => globalThis.axe.run());
    for (const each of judged.violations) {
      for (const node of each.nodes) {
        result.violations.push(`${colorScheme}: ${each.id}: ${node.failureSummary} ${node.html.slice(0, 120)}`);
      }
    }
  }
  console.log(JSON.stringify(result, null, 1));
} finally {
  await browser.close();
}
