"""Where a QEMU's machine protocol (QMP) is to be had, by its command line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MAX_SHOWN: Final = 256
_FALSE: Final = ("off", "no", "false", "n")  # of qapi's boolean


@dataclass(frozen=True, slots=True)
class Monitor:
    """A unix socket on which QEMU listens: path as it was bound, or the descriptor that QEMU was given."""

    path: str | None = None
    fd: int | None = None


def monitors(arguments: Sequence[str]) -> tuple[list[Monitor], str]:
    """(QMP monitors in the order of the command line, "") or ([], why there is none that could be asked).

    -qmp unix:PATH,server=on… and -qmp-pretty; -chardev socket,id=X,path=PATH or fd=N,server=on… with -mon chardev=X,
    mode=control, or with -qmp chardev:X (qemu-options.hx).
    """
    chardevs: dict[str, dict[str, str]] = {}
    wanted: list[dict[str, str] | str] = []
    for argument, value in zip(arguments, [*arguments[1:], ""], strict=True):
        option = argument.replace("--", "-", 1)
        if option == "-chardev":
            options = _options(value, "backend")
            chardevs[options.get("id", "")] = options
        elif option == "-mon" and (options := _options(value, "chardev")).get("mode") == "control":
            wanted.append(options.get("chardev", ""))
        elif option in ("-qmp", "-qmp-pretty"):
            kind, _, rest = value.partition(":")
            if kind == "chardev":
                wanted.append(rest)
            else:
                wanted.append(_options(rest, "path") | {"backend": "socket"} if kind == "unix" else {"backend": kind})
    found = [_monitor(chardevs.get(one, {}) if isinstance(one, str) else one) for one in wanted]
    usable = [one for one in found if isinstance(one, Monitor)]
    reasons = [one for one in found if isinstance(one, str)]
    return usable, "" if usable else next(iter(reasons), "QEMU was started without a QMP monitor (-qmp)")


def _monitor(options: dict[str, str]) -> Monitor | str:
    backend = options.get("backend", "")
    if backend != "socket" or not ("path" in options or "fd" in options):
        where = ":".join([backend or "unknown", *(options[name] for name in ("host", "port") if name in options)])
        return f"its QMP monitor is no unix socket but {shown(where)}"
    if options.get("server", "off") in _FALSE:
        return "its QMP monitor is a connection that QEMU makes itself, to one manager"
    if options.get("abstract", "off") not in _FALSE:
        return "its QMP monitor is an abstract unix socket, which is not supported"
    if "path" in options:
        return Monitor(path=options["path"])
    number = options["fd"]
    return Monitor(fd=int(number)) if re.fullmatch("[0-9]{1,7}", number) else "its QMP monitor's descriptor has a name"


def shown(text: str) -> str:
    """Printable and short: a command line is somebody else's text."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text[:_MAX_SHOWN])


def _options(text: str, first: str) -> dict[str, str]:
    """Of "a,b=c,server,nowait": {first: "a", "b": "c", "server": "on", "wait": "off"}; ",," is one comma inside."""
    options: dict[str, str] = {}
    for i, part in enumerate(text.replace(",,", "\0").split(",")):
        name, equals, value = part.partition("=")
        if not equals and i == 0:
            name, value = first, part
        elif not equals:
            name, value = (name[2:], "off") if name in ("nowait", "noserver", "nodelay") else (name, "on")
        options.setdefault(name, value.replace("\0", ","))
    return options
