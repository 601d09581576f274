// Imports every package of package.json, and writes their versions.
import { readFileSync } from "node:fs";

const versions = {};
for (const name of process.argv.slice(2)) {
  await import(name);
  versions[name] = JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
}
console.log(JSON.stringify(versions));
