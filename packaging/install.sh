#!/bin/sh
# Installs mar-replication on Debian 12 as root, for Dockerfile and apptainer.def. The folder above this one is the source.
#   install.sh packages cpu|cuda    Python of Debian, and requirements.lock by its checksums, in /opt/mar/venv
#   install.sh project              the package itself, into the same environment
# Both have torch's CUDA libraries, which the torch of PyPI needs even to start on a CPU; `cuda` adds what torch.compile
# needs on a GPU: compilers of C and C++, which come together, and the headers of Python.
set -eu
source=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv=/opt/mar/venv

packages() {
    case $1 in
    cpu) compiler= ;;
    cuda) compiler="g++ libc6-dev python3-dev" ;;
    *) echo "install.sh packages: found '$1'; accepted: cpu, cuda" >&2; exit 2 ;;
    esac
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # shellcheck disable=SC2086 # several words
    apt-get install -q -y --no-install-recommends ca-certificates python3 python3-venv $compiler
    rm -rf /var/lib/apt/lists/*
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes \
        -r "$source/requirements.lock"
}

project() {
    "$venv/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps \
        --no-build-isolation "$source"
    rm -rf "$source/build" "$source"/*.egg-info
    cp "$source/THIRD_PARTY.md" /opt/mar/
    "$venv/bin/python" "$source/packaging/third_party.py" "$source/requirements.lock" >>/opt/mar/THIRD_PARTY.md
    "$venv/bin/mar" --version
}

case ${1:-} in
packages) packages "${2:-}" ;;
project) project ;;
*) echo "install.sh: found '${1:-}'; accepted: packages, project" >&2; exit 2 ;;
esac
