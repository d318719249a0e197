"""exitscope_probes: the privileged half of exitscope: eBPF probes, ring reader and collector."""

__version__ = "0.3.0"
