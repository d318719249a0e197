"""What a made-up server shows: the states that the page must have a design for."""

from dataclasses import dataclass, field


@dataclass
class Scenario:
    """Knobs of the feed; a test may turn them while pages are connected."""

    vcpus: int = 4
    kind: str = "live"  # live, replay, none
    state: str = "connected"  # connected, waiting, stale
    reason: str | None = None
    age_ns: int = 30_000_000
    only: str | None = None  # which VMs alone are traced
    vms: int = 2  # listed beside the shown one: the last of them is gone
    name: str = "demo-guest"
    empty: bool = False  # no VM at all
    idle: bool = False  # a VM without faults
    hung_s: float = 0.0  # for how long all vCPUs have stood in one fault each, none of which ends
    gap: dict[str, int | str] = field(default_factory=dict)  # not_counted or unreadable, of the first VM beside
    silent: bool = False  # connected, but no frame comes
    asynchronous: bool = False
    sampling: int = 1
    history_s: int = 900
    rate_hz: float = 5.0
    loss: dict[str, int] = field(default_factory=dict)
    hardware: str = "silent"  # hardware exits: counted, silent, unattached
    missing_hooks: list[str] = field(default_factory=list)
    recordings: tuple[str, ...] = ()  # names of those that are there from the beginning
    migration: str = ""  # how the page knows of one: qmp, kernel, busy, source (asked too seldom); empty: there is none
    migration_s: float = 30.0  # how long ago it began
    qmp_age_s: float = 0.0  # how long ago QEMU answered last
    alarms: int = 0  # active ones
    host_alarms: int = 0  # active ones of this host while a replay is shown
    handlers: bool = True  # whether there are threads that serve faults
    reader_busy: float | None = 0.12
    gpa_bin: int = 16 << 20
    gpa_bins: int = 256
    unfair: bool = False  # whether the conditions of any two recordings make a comparison unfair


NO_LOSS = dict.fromkeys(
    (
        "ring_full",
        "map_full",
        "unmatched_begin",
        "unmatched_end",
        "unreadable",
        "hook_missing",
        "slow_client",
    ),
    0,
)

SCENARIOS: dict[str, Scenario] = {
    "live": Scenario(),
    "async": Scenario(asynchronous=True),
    "empty": Scenario(empty=True),
    "idle": Scenario(idle=True),
    "hung": Scenario(idle=True, hung_s=605.0, alarms=1, reader_busy=0.0),
    "waiting": Scenario(
        kind="none", state="waiting", empty=True, reason="No collector at /run/exitscope/collector.sock."
    ),
    "stale": Scenario(
        state="stale", age_ns=7_400_000_000, reason="The collector is connected but has sent nothing for 7 s."
    ),
    "replay": Scenario(
        kind="replay", reason="This host has no /dev/kvm, so a recording of a real run is replayed instead."
    ),
    "migrating": Scenario(migration="qmp"),
    "migrated": Scenario(migration="qmp", migration_s=60.0, recordings=("postcopy of demo-guest",)),
    "kernel": Scenario(migration="kernel"),
    "busy": Scenario(migration="busy", alarms=1),
    "alarms": Scenario(alarms=4),
    "exits": Scenario(handlers=False),
    "library": Scenario(recordings=("before the patch", "after the patch", "snapshot restore, 64 vCPUs")),
    "lost": Scenario(
        loss={
            "ring_full": 1_204_331,
            "map_full": 12,
            "slow_client": 7,
            "hook_missing": 2,
            "unmatched_end": 3,
        },
        missing_hooks=[
            "async fault (kvm:kvm_async_pf_completed): async stages and totals are not shown",
            "populate (madvise): pages made present by MADV_POPULATE show as resolver other",
        ],
        sampling=8,
    ),
}
