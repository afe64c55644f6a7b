#!/bin/sh
# A Chromium for the tests in this folder: install it where that can be done (Debian or Ubuntu, as root), else say what to do.
#   tests/browser/chromium.sh install    0: it is there now; 77: it cannot be installed here
set -u

there() {
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" && return 0
    done
    return 1
}

case "${1:-}" in
install)
    there && exit 0
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        echo "tests/browser: no Chromium, and it takes root on Debian or Ubuntu to install one; install chromium and run again"
        exit 77
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null
    there || { echo "tests/browser: apt-get has no chromium that runs here"; exit 77; }
    ;;
*)
    echo "usage: $0 install"
    exit 2
    ;;
esac
