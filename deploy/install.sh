#!/bin/sh
# install.sh: puts exitscope into /opt/exitscope and runs collector and server under systemd. As root, on Debian 12;
# again to upgrade.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "exitscope: deploy/install.sh needs root" >&2; exit 1; }

deploy/apt-install.sh ca-certificates python3-venv python3-bpfcc linux-libc-dev
getent group exitscope >/dev/null || groupadd --system exitscope
/usr/bin/python3 -m venv --system-site-packages /opt/exitscope/.venv
/opt/exitscope/.venv/bin/pip -qq --disable-pip-version-check --no-input install '.[server]'
install -m 644 README.md /opt/exitscope/README.md
install -m 644 deploy/exitscope-collector.service deploy/exitscope-server.service /etc/systemd/system/
systemctl daemon-reload
systemctl enable --quiet exitscope-collector exitscope-server
systemctl restart exitscope-collector exitscope-server
echo "exitscope: http://127.0.0.1:8765"
