#!/bin/sh
# A Chromium for the browser tests: one on the PATH, else the system's package (root only), else Playwright's own build.
# Usage: ensure-browser.sh PYTHON, where PYTHON has playwright installed.
set -eu

on_path() {
    for name in chromium google-chrome chrome; do
        # Some distributions ship a `chromium` that only says where to get it: it must start.
        if command -v "$name" >/dev/null && "$name" --version >/dev/null 2>&1; then return 0; fi
    done
    return 1
}

from_system() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    echo "installing the system's chromium for the browser tests" >&2
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >&2 </dev/null || return 1
    on_path
}

on_path || from_system || "$1" -m playwright install chromium || {
    echo "no browser for the tests: install chromium (Debian: apt-get install chromium), or run: $1 -m playwright install chromium" >&2
    exit 1
}
