"""The way in: `exitscope` and `python -m exitscope`."""

import sys


def main() -> None:
    """Run the command line; one clear line where the server's packages are missing."""
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"exitscope", "exitscope_probes"}:
            raise
        sys.exit(
            f"exitscope: the Python package {error.name} is missing: `{sys.executable} -m pip install "
            "'exitscope[server]'` installs what the command line and the server need; a host that only collects has "
            f"`{sys.executable} -I -m exitscope_probes collect`"
        )
    run()


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # `python -m` puts the current directory there: whatever lies in it would run
    main()
