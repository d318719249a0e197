"""The real KVM workload: a guest whose memory is paged on demand, the ground truth of the tests.

`python -m exitscope_probes.guest --help` shows its options; `exitscope_probes.guest.build` compiles it.
"""
