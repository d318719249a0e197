"""deploy/install.sh on a copy of this system: under a strict umask, upgraded, taken away again."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_SCRIPT = r"""
set -eu
layers=$1 root=$2 port=$3 python=$4
mount --make-rprivate /
mount -t tmpfs tmpfs "$layers"
for place in etc opt usr/local var run; do
    mkdir -p "$layers/$place/upper" "$layers/$place/work"
    mount -t overlay overlay -o "lowerdir=/$place,upperdir=$layers/$place/upper,workdir=$layers/$place/work" "/$place"
done
[ -d /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing
# A source tree of its own: building leaves files behind.
mkdir "$layers/source"
cd "$root"
git ls-files -z | tar --null -T - -c | tar -x -C "$layers/source"
cd "$layers/source"
printf '#!/bin/sh\nexec %s -I %s/tests/kernel/systemctl.py "$@"\n' "$python" "$root" >/usr/local/sbin/systemctl
chmod 755 /usr/local/sbin/systemctl
export PATH=/usr/local/sbin:$PATH
mkdir -p /etc/default
printf 'EXITSCOPE_PORT=%s\n' "$port" >/etc/default/exitscope
umask 077
trap 'cat /run/exitscope-test/log; kill $(cat /run/exitscope-test/exitscope-*) 2>/dev/null || true' EXIT

deploy/install.sh
echo "PATH has: $(command -v exitscope): $(exitscope --version)"
echo "PORT is still: $(cat /etc/default/exitscope)"
# An older build of the same version, which the upgrade must replace.
echo broken >"$(echo /opt/exitscope/.venv/lib/python3*/site-packages/exitscope)/errors.py"
deploy/install.sh
deploy/install.sh uninstall
for left in /opt/exitscope /usr/local/bin/exitscope /etc/systemd/system/exitscope-server.service; do
    [ ! -e "$left" ] || echo "LEFT BEHIND: $left"
done
"""


@pytest.mark.needs("root", "kvm", "bpf")
@pytest.mark.timeout(420)
def test_install_upgrade_and_uninstall(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    layers = tmp_path / "layers"
    layers.mkdir()
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", str(layers), str(ROOT), str(port), sys.executable],
        env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    lines = result.stdout.splitlines()
    assert lines.count(f"exitscope: http://127.0.0.1:{port}") == 2, result.stdout
    assert any(line.startswith("PATH has: /usr/local/bin/exitscope: exitscope, version ") for line in lines)
    assert f"PORT is still: EXITSCOPE_PORT={port}" in lines
    assert "LEFT BEHIND" not in result.stdout
    assert any(line.startswith("exitscope: removed;") for line in lines)
