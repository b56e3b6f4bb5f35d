#!/bin/sh
# The browser in which the tests open reports: any Chromium that is there, else Debian's, where it may be installed.
# Without one these tests are skipped, and say so; under CI they fail.
set -eu

for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if [ -n "$name" ] && command -v "$name" >/dev/null; then exit 0; fi
done

give_up() {
    echo "No browser for the tests of reports: $1." >&2
    echo "Install Chromium (Debian: apt-get install chromium), or name one: CHROMIUM=/path/to/chrome make test" >&2
    [ -z "${CI:-}" ] && exit 0
    exit 1
}

command -v apt-get >/dev/null || give_up "none is installed, and this is no Debian"
root=""
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || give_up "none is installed, and only root may do that"
    root="sudo -n"
fi
echo "Installing chromium, in which the tests open reports"
# Lists that are out of date name files that are gone.
$root apt-get update -qq || give_up "apt-get update failed"
$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null ||
    give_up "apt-get install chromium failed"
