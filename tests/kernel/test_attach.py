"""What is planned is what the kernel takes: no program is refused by its verifier, unseen, for the next best way."""

import pytest

from exitscope_probes.btf import KernelBtf
from exitscope_probes.plan import choose
from tests.kernel.harness import Watch

pytestmark = pytest.mark.needs("root", "bpf", "kvm")


def test_the_first_choice_is_taken(session_watch: Watch, request: pytest.FixtureRequest) -> None:
    choices = choose(KernelBtf(), request.config.getoption("--strategy", None))
    planned = {choice.hook.name: choice.possible[0].name if choice.possible else None for choice in choices}
    hooks = session_watch.probes.hooks
    assert {hook.hook: hook.attachment for hook in hooks} == planned, [hook.passed_over for hook in hooks]
