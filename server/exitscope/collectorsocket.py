"""Whether a collector listens on a path."""

import grp
import os
import socket
from contextlib import suppress
from pathlib import Path

from exitscope_probes.procfs import Proc
from exitscope_probes.unixsockets import UnixSockets

from .errors import UserError


def listens(path: str) -> bool:
    """Whether one can be asked there. Raises UserError if one listens that this user may not ask."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        try:
            client.connect(path)
        except PermissionError:
            if any(row.listening for row in UnixSockets(Proc()).at(os.getpid(), path)):
                raise UserError(
                    f"a collector runs on {path}, and this user may not ask it: become a member of the group "
                    f"{_group(path)}, or run it as root"
                ) from None
            return False
        except OSError:
            return False
    return True


def _group(path: str) -> str:
    """Whose members may connect, as far as this user can see."""
    for place in (Path(path), Path(path).parent):
        with suppress(OSError, KeyError):
            return grp.getgrgid(place.stat().st_gid).gr_name
    return "of `exitscope collect --group`"
