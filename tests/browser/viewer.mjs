// Opens a page with a viewer in headless Chromium, uses it, and prints what came of it as JSON.
//   node viewer.mjs page.html [folder for screenshots]
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [file, folder] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    // WebGL 2 on the processor.
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
  ],
});
try {
  // The page's own policy holds here.
  const page = await browser.newPage({ viewport: { width: 900, height: 700 } });
  page.setDefaultTimeout(120_000);
  const messages = [];
  const requests = [];
  page.on("console", (message) => messages.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => messages.push(`error: ${error.message}`));
  page.on("request", (request) => {
    if (!/^(data|blob):/.test(request.url())) requests.push(request.url());
  });
  const address = pathToFileURL(file).href;
  await page.goto(address, { waitUntil: "commit" });
  await page.waitForSelector("#viewer[data-state]", { state: "attached", timeout: 150_000 });
  const result = { state: await page.getAttribute("#viewer", "data-state"), places: {}, pictures: {} };

  const place = () => page.textContent("#viewer-place");
  /** A picture of the canvas, as a number that tells two apart. */
  const picture = async (name) => {
    const path = folder && join(folder, `${name}.png`);
    const shot = await page.locator("#viewer-canvas").screenshot(path ? { path } : {});
    let sum = 7;
    for (const byte of shot) sum = (sum * 31 + byte) >>> 0;
    result.pictures[name] = sum;
  };
  result.start = await place();
  await picture("start");
  for (const button of await page.locator("[data-organ]").all()) {
    const name = (await button.textContent()).trim();
    await button.click();
    result.places[name] = await place();
  }
  await page.locator("[data-organ]").first().click();
  await picture("first");
  await page.locator("[data-shown]").first().click();
  await picture("hidden");
  await page.locator("[data-shown]").first().click();
  await picture("again");
  await page.locator("#viewer-opacity").fill("100");
  await picture("opaque");
  await page.locator("#viewer-labels").click();
  await picture("scan_alone");
  await page.locator("#viewer-labels").click();
  await page.locator("#viewer-edges").click();
  await picture("edges");
  await page.locator("#viewer-edges").click();
  await page.selectOption("#viewer-window", "lung");
  await picture("lung");
  await page.selectOption("#viewer-view", "axial");
  await picture("axial");
  await page.selectOption("#viewer-view", "solid");
  await page.locator("#viewer-scan").click();
  await picture("solid");
  await page.locator("#viewer-scan").click();
  await page.selectOption("#viewer-view", "planes");
  // By the keyboard alone: a slider moves the crosshair.
  await page.focus("#viewer-z");
  const before = await place();
  for (let n = 0; n < 9; n++) await page.keyboard.press("ArrowRight");
  result.byKeyboard = [before, await place()];
  // By the mouse: a click on the canvas does, too.
  const box = await page.locator("#viewer-canvas").boundingBox();
  await page.mouse.click(box.x + box.width * 0.2, box.y + box.height * 0.5);
  result.byMouse = [result.byKeyboard[1], await place()];
  if (folder) await page.screenshot({ path: join(folder, "page.png"), fullPage: true });
  result.messages = messages;
  result.requests = requests.filter((url) => url.split("#")[0] !== address);
  result.scripts = await page.evaluate(() => document.scripts.length);
  console.log(JSON.stringify(result, null, 1));
} finally {
  await browser.close();
}
