// Builds ../segmate_cli/look/viewer.js, and viewer.json beside it, which says of what.
//   npm ci --ignore-scripts && npm run build            (-- FOLDER: into that one instead)
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build, version as esbuildVersion } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const packages = join(here, "node_modules");
const niivue = join(packages, "@niivue", "niivue");
const target = process.argv[2] ?? join(here, "..", "segmate_cli", "look");

const PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";

// NiiVue reads Zarr archives over the network; a page that loads nothing has no use for that, nor
// for the codecs, which are two thirds of NiiVue's size.
const leftOut = {
  name: "left-out",
  setup(builder) {
    builder.onResolve({ filter: /^zarrita$/ }, (wanted) => ({ path: wanted.path, namespace: "none" }));
    builder.onLoad({ filter: /.*/, namespace: "none" }, () => ({ contents: "module.exports = {};" }));
    // Of NiiVue's package.json its version alone is used.
    builder.onLoad({ filter: /niivue[\\/]package\.json$/ }, (wanted) => ({
      contents: JSON.stringify({ version: manifest(dirname(wanted.path)).version }),
      loader: "json",
    }));
    // Pictures of how surfaces shine, of which there are none here: one pixel stands for them.
    builder.onLoad({ filter: /matcaps[\\/].*\.jpg$/ }, () => ({ contents: PIXEL, loader: "text" }));
    // Comments inside shaders are texts to a minifier; some hold addresses, of which pages have none.
    builder.onLoad({ filter: /shader-srcs\.ts$/ }, (wanted) => ({
      contents: readFileSync(wanted.path, "utf8").replace(/[ \t]*\/\/.*$/gm, "").replace(/^\s+/gm, ""),
      loader: "ts",
    }));
  },
};

function manifest(folder) {
  return JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
}

/** The packages that bundled files came from, by name. */
function used(metafile) {
  const names = Object.keys(metafile.inputs).map(
    (path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1],
  );
  return [...new Set(names.filter(Boolean))].sort();
}

function licenceOf(name) {
  const folder = join(packages, name);
  // NiiVue's package comes without the text of its licence, its repository has it.
  const own = readdirSync(folder).find((file) => /^licen[cs]e/i.test(file));
  const path = own ? join(folder, own) : join(here, `LICENSE-${name.split("/").pop()}`);
  return readFileSync(path, "utf8").trim();
}

const result = await build({
  absWorkingDir: here,
  entryPoints: ["viewer.mjs"],
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  legalComments: "none",
  write: false,
  metafile: true,
  // NiiVue's own bundle holds pictures and codecs that nothing here uses, so its sources are bundled.
  alias: { "@niivue/niivue": join(niivue, "src", "niivue", "index.ts"), "@": join(niivue, "src") },
  loader: { ".png": "dataurl" },
  plugins: [leftOut],
});

const names = used(result.metafile);
const versions = Object.fromEntries(names.map((name) => [name, manifest(join(packages, name)).version]));
const licences = names.map((name) => `${name} ${versions[name]}\n\n${licenceOf(name)}`);
const bar = `\n\n${"-".repeat(72)}\n\n`;
const notice = `The viewer of segmate's pages, built by viewer/build.mjs of:${bar}${licences.join(bar)}`;
const text = `/*!\n${notice.replaceAll("*/", "* /")}\n*/\n${result.outputFiles[0].text}`;
for (const never of ["</script", "<!--", "http://", "https://"]) {
  if (text.toLowerCase().includes(never)) throw new Error(`the bundle holds ${never}`);
}
mkdirSync(target, { recursive: true });
writeFileSync(join(target, "viewer.js"), text);
const told = {
  sha256: createHash("sha256").update(text).digest("hex"),
  packages: versions,
  esbuild: esbuildVersion,
};
writeFileSync(join(target, "viewer.json"), `${JSON.stringify(told, null, 2)}\n`);
console.log(`${text.length} bytes of ${names.map((name) => `${name} ${versions[name]}`).join(", ")}`);
