"""What this host can show, and what to do about what it cannot: `exitscope doctor`."""

import json
import platform
import sys
from dataclasses import asdict
from typing import Any, Final

from . import profiles
from .checks import checks, usable
from .errors import ProbeError
from .plan import HookStatus, survey, unseen

_MARKS: Final[dict[str, str]] = {"ok": "✓", "missing": "✗", "note": "·"}


def report() -> dict[str, Any]:
    """All of it as plain data: {"usable", "reason", "kernel", "machine", "checks", "hooks", "profile", …}."""
    hooks, error = _hooks()
    reason = usable() or error or unseen(hooks)
    return {
        "usable": reason is None,
        "reason": reason,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "checks": [asdict(check) for check in checks()],
        "hooks": [asdict(hook) for hook in hooks],
        "hooks_error": error,
        "profile": profiles.of_this_kernel(),
    }


def main(as_json: bool = False) -> int:
    """Print the report; 0 if live tracing is possible, else 1."""
    found = report()
    if as_json:
        json.dump(found, sys.stdout, indent=2)
        print()
    else:
        print("\n".join(_lines(found)))
    return 0 if found["usable"] else 1


def _lines(found: dict[str, Any]) -> list[str]:
    rows = [(c["state"], c["name"], c["detail"], c["remedy"] if c["state"] != "ok" else "") for c in found["checks"]]
    lines = [f"exitscope on Linux {found['kernel']}, {found['machine']}", "", *_aligned(rows), "", "Hooks"]
    hooks = []
    for hook in found["hooks"]:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in hook["passed_over"])
        if hook["status"] == "attached":
            hooks.append(("ok", hook["title"], hook["attachment"], _passed_over(hook["passed_over"])))
        else:
            state = "missing" if hook["essential"] else "note"
            hooks.append((state, hook["title"], reasons or hook["status"], f"without it: {hook['effect']}"))
    lines += _aligned(hooks) if hooks else [f"  ✗ {found['hooks_error']}"]
    lines += ["", "How this kernel tells userspace of a guest's fault", *_profile_lines(found["profile"])]
    verdict = "live tracing works here" if found["usable"] else f"no live tracing here: {found['reason']}"
    return [*lines, "", verdict]


def _passed_over(candidates: list[tuple[str, str]]) -> str:
    """Why nothing better was taken: `not by fentry: this kernel …; not by kprobe: …`."""
    reasons = {_way(name): reason for name, reason in candidates}
    return "; ".join(f"not by {way}: {reason}" for way, reason in reasons.items())


def _way(name: str) -> str:
    """Of `tracepoint:a+fexit:b` what makes it special: fexit."""
    ways = [part.partition(":")[0] for part in name.split("+")]
    return next((way for way in ways if way != "tracepoint"), "tracepoint")


def _profile_lines(profile: dict[str, Any]) -> list[str]:
    mark = _MARKS["note" if profile["name"].startswith("unknown") else "ok"]
    lines = [f"  {mark} {profile['name']}: {profile['title']}"]
    if profile["evidence"]:
        lines.append(f"    recognised by {', '.join(profile['evidence'])}")
    named = [f"exit flag 1 << {bit} is {name}" for bit, name in profile["exit_flags"].items()]
    named += [f"memslot flag 1 << {bit} is {name}" for bit, name in profile["memslot_flags"].items()]
    named += [f"capability {number} is {name}" for number, name in profile["capabilities"].items()]
    return [*lines, f"    {', '.join(named)}"] if named else lines


def _aligned(rows: list[tuple[str, str, str, str]]) -> list[str]:
    width = max(len(name) for _, name, _, _ in rows)
    lines = []
    for state, name, detail, remedy in rows:
        lines.append(f"  {_MARKS[state]} {name:{width}}  {detail}")
        if remedy:
            lines.append(f"    {'':{width}}  → {remedy}")
    return lines


def _hooks() -> tuple[tuple[HookStatus, ...], str]:
    try:
        return survey(), ""
    except ProbeError as error:
        return (), str(error)
    except OSError as error:
        return (), f"cannot be surveyed: {error.strerror}: {error.filename}"
