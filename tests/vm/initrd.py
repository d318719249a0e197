"""The first file system that the VM's kernel sees: busybox, the modules, and `init.sh`."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.vm.kernels import Kernel

_BUSYBOX: Final = Path("/bin/busybox")  # Debian's busybox-static
_INIT: Final = Path(__file__).parent / "init.sh"
_MOUNT_POINTS: Final = ("proc", "sys", "dev", "host", "scratch", "root")


def build(kernel: Kernel, target: Path) -> None:
    """Writes the archive: quick enough to be made for each boot, so it is never stale."""
    with tempfile.TemporaryDirectory(prefix="exitscope-initrd-") as name:
        tree = Path(name)
        for mount_point in (*_MOUNT_POINTS, "bin"):
            (tree / mount_point).mkdir()
        shutil.copy(_BUSYBOX, tree / "bin")
        shutil.copytree(kernel.modules, tree / "modules")
        shutil.copy(_INIT, tree / "init")
        (tree / "init").chmod(0o755)
        files = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*")))
        with target.open("wb") as archive:
            command = ["cpio", "--create", "--format=newc", "--quiet"]
            subprocess.run(command, cwd=tree, input=files.encode(), stdout=archive, check=True)
