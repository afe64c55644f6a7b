#!/usr/bin/env bash
# A command in a folder that `mar init` made, by the installed wheel alone: from_wheel.sh FOLDER WHEEL COMMAND...
# Its packages are those of the Python on the PATH; the checkout is not seen.
set -euo pipefail
mkdir -p "$1"
folder=$(realpath "$1") wheel=$(realpath "$2")
shift 2
unset PYTHONPATH
purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
locked=$(python -c "$purelib")
python -m venv --without-pip "$folder/venv"
python -m pip --python "$folder/venv/bin/python" install --quiet --disable-pip-version-check --no-deps --no-index "$wheel"
echo "$locked" >"$("$folder/venv/bin/python" -c "$purelib")/locked.pth" # a path alone: no .pth file in it is read
printf '#!/bin/sh\nexec "%s/venv/bin/python" -m snakemake "$@"\n' "$folder" >"$folder/venv/bin/snakemake"
chmod +x "$folder/venv/bin/snakemake"
export PATH="$folder/venv/bin:$PATH"
cd "$folder"
mar --version
mar init work
cd work
exec "$@"
