// Writes server/web from page/src: one script, one stylesheet, the page and its icon as they are, and the licenses.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const here = import.meta.dirname;
const out = join(here, "..", "server", "web");

// The script begins with this digest. tests/server/api/test_page.py computes it from the sources too, so that a change
// without `make page` is noticed by a machine that has no node.
function digest() {
  const sources = readdirSync(join(here, "src")).map((name) => `src/${name}`);
  const hash = createHash("sha256");
  for (const name of [...sources, "build.mjs", "package-lock.json", "package.json", "tsconfig.json"].sort()) {
    hash.update(`${name}\0`).update(readFileSync(join(here, name))).update("\0");
  }
  return hash.digest("hex");
}

rmSync(out, { recursive: true, force: true });
mkdirSync(out);
await build({
  absWorkingDir: here,
  entryPoints: { page: "src/main.tsx" },
  outdir: out,
  bundle: true,
  minify: true,
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  banner: { js: `/* sources ${digest()}; licenses.txt has the licenses of what is bundled */` },
});
for (const name of ["index.html", "icon.svg"]) copyFileSync(join(here, "src", name), join(out, name));
const { dependencies } = JSON.parse(readFileSync(join(here, "package.json"), "utf8"));
const bundled = [...Object.keys(dependencies), "@preact/signals-core"];
const licenses = bundled.map((name) => `${name}\n\n${readFileSync(join(here, "node_modules", name, "LICENSE"), "utf8")}`);
writeFileSync(join(out, "licenses.txt"), licenses.join("\n\n"));
