"""Rule: migrations that are to be recorded by themselves cannot be, as the folder takes no file."""

from collections.abc import Iterator

from .finding import Finding


def not_recorded(why: str | None) -> Iterator[Finding]:
    """why: of the library, one sentence; None: all is well, or nothing is to be recorded."""
    if why is not None:
        yield Finding(
            "not_recorded",
            "warning",
            f"Migrations are not recorded: {why}.",
            "See --recordings and --auto-record: the server's user must be able to write there.",
            hold_ns=0,
        )
