#!/bin/sh
# install.sh             puts exitscope into /opt/exitscope and runs collector and server under systemd; again to upgrade
# install.sh uninstall   takes it away again; recordings and /etc/default/exitscope stay
# As root, on Debian 12.
set -eu
umask 022 # the services' users must be able to read what is installed here
cd "$(dirname "$0")/.."

home=/opt/exitscope
units="exitscope-collector exitscope-server"
command=/usr/local/bin/exitscope
module_settings=/etc/systemd/system/exitscope-collector.service.d/kvm-module.conf

fail() {
    echo "exitscope: $1" >&2
    exit 1
}

uninstall() {
    for unit in $units; do
        if [ -e "/etc/systemd/system/$unit.service" ]; then
            systemctl disable --quiet --now "$unit"
            rm "/etc/systemd/system/$unit.service"
        fi
    done
    rm -f "$module_settings"
    systemctl daemon-reload
    if [ "$(readlink "$command")" = "$home/.venv/bin/exitscope" ]; then
        rm "$command"
    fi
    rm -rf "$home" /var/cache/exitscope /var/cache/exitscope-collector /var/cache/private/exitscope-collector
    if getent group exitscope >/dev/null; then
        groupdel exitscope
    fi
    echo "exitscope: removed; the recordings in /var/lib/exitscope and the settings in /etc/default/exitscope are still there"
}

install_all() {
    deploy/apt-install.sh ca-certificates python3-venv python3-bpfcc linux-libc-dev
    getent group exitscope >/dev/null || groupadd --system exitscope
    /usr/bin/python3 -m venv --system-site-packages "$home/.venv"
    pip="$home/.venv/bin/pip -qq --disable-pip-version-check --no-input install"
    $pip --require-hashes -r deploy/requirements/server.txt
    # Reinstalled: pip takes an equal version for the same program.
    $pip --no-deps --no-build-isolation --force-reinstall .
    install -m 644 README.md "$home/README.md"
    for unit in $units; do
        install -m 644 "deploy/$unit.service" /etc/systemd/system/
    done
    # kvm.ko is loaded, or there is one to load
    if [ -e /sys/kernel/btf/kvm ] || modinfo -n kvm 2>/dev/null | grep -q ^/; then
        install -D -m 644 deploy/kvm-module.conf "$module_settings"
    else
        rm -f "$module_settings"
    fi
    [ -e /etc/default/exitscope ] || install -D -m 644 deploy/exitscope.default /etc/default/exitscope
    if [ ! -e "$command" ] || [ -L "$command" ]; then
        ln -sfn "$home/.venv/bin/exitscope" "$command"
    else
        echo "exitscope: warning: $command is something else and stays; the command is $home/.venv/bin/exitscope" >&2
    fi
    systemctl daemon-reload
    # shellcheck disable=SC2086 # a list of words
    systemctl enable --quiet $units
    # shellcheck disable=SC2086
    systemctl restart $units
    wait_until_it_traces
}

# Says where the page is once the server answers there and hears its collector.
wait_until_it_traces() {
    address=$("$home/.venv/bin/python" -I - <<'END'
import json, os, time, urllib.request
for line in open("/etc/default/exitscope"):
    name, _, value = line.strip().partition("=")
    os.environ[name] = value.strip("\"'")
address = f"http://{os.environ.get('EXITSCOPE_HOST') or '127.0.0.1'}:{os.environ.get('EXITSCOPE_PORT') or 8765}"
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    try:
        with urllib.request.urlopen(f"{address}/api/v1/health", timeout=5) as answer:
            if json.load(answer)["status"] == "ok":
                print(address)
                break
    except (OSError, ValueError, KeyError):
        pass
    time.sleep(0.2)
END
    )
    [ -n "$address" ] || fail "installed, but not tracing after a minute: see 'journalctl -u exitscope-collector -u exitscope-server'"
    echo "exitscope: $address"
}

[ "$(id -u)" = 0 ] || fail "deploy/install.sh needs root"
case "${1:-}" in
"") install_all ;;
uninstall) uninstall ;;
*) fail "usage: deploy/install.sh [uninstall]" ;;
esac
