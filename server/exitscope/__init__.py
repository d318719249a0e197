"""exitscope: the unprivileged half: aggregate, API, WebSocket and page; reads what the collector sends."""

__all__ = ["__version__"]

__version__: str


def __getattr__(name: str) -> str:
    """`__version__`, which both halves share.

    Found when it is asked for: `python -m exitscope` runs this file while it still looks into the current directory.
    """
    if name != "__version__":
        raise AttributeError(name)
    from exitscope_probes import __version__ as version

    return version
