"""exitscope: the unprivileged half: aggregate, API, WebSocket and page; reads what the collector sends."""

from exitscope_probes import __version__

__all__ = ["__version__"]
