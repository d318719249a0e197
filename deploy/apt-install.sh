#!/bin/sh
# apt-install.sh PACKAGE...: installs those Debian packages that are missing; a no-op of milliseconds when none is.
# Needs root for that. With OPTIONAL=1 a missing package is a warning, so that an unprivileged user gets as far as possible.
set -eu

missing=""
for package in "$@"; do
    case "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" in
    installed) ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

fail() {
    if [ "${OPTIONAL:-0}" = 1 ]; then
        echo "exitscope: warning: $1" >&2
        exit 0
    fi
    echo "exitscope: $1" >&2
    exit 1
}

command -v apt-get >/dev/null || fail "this is no Debian system; install what these packages hold:$missing"
[ "$(id -u)" = 0 ] || fail "not root, and missing:$missing (as root: apt-get install$missing)"

echo "exitscope: installing$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # a list of words
if ! { apt-get -qq update && apt-get -qq install --yes --no-install-recommends $missing; } </dev/null >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    fail "apt-get could not install$missing (network, package sources?)"
fi
