"""What a comparison answers: the meaning and the unit of every field. a and b are the two recordings, in that order."""

from typing import Literal

from pydantic import BaseModel, Field


class Bounds(BaseModel):
    """A figure with its confidence interval."""

    value: float = Field(description="The figure.")
    low: float | None = Field(description="Lower end of its confidence interval; null where none can be given.")
    high: float | None = Field(description="Upper end of its confidence interval; null where none can be given.")


class Run(BaseModel):
    """One of the two recordings."""

    id: str = Field(description="Id of the recording.")
    name: str = Field(description="Its name.")
    title: str = Field(description="How it is called here: A or B, and its mode.")
    mode: str = Field(description="Mode of its faults; `mixed` if they are not nearly all of one.")
    modes: dict[str, int] = Field(description="Mode -> faults of vCPUs; counts.")
    vm: str | None = Field(description="Id of the VM that is compared; null: all of the recording.")
    vcpus: int = Field(description="vCPUs that had faults.")
    faults: int = Field(description="Faults of vCPUs that are compared; a count.")
    started_wall_ms: int = Field(description="When the recording began, wall clock, ms since 1970.")
    duration_ns: int = Field(description="Length of the recording, ns.")
    active_ns: int = Field(description="Of that: time with faults, pauses of 100 ms and more left out, ns.")
    blocks: int = Field(description="Blocks of active time that the intervals come from.")


class Difference(BaseModel):
    """A condition that is not the same."""

    condition: str = Field(description="Name of the condition.")
    a: str = Field(description="What it was in a, for a person.")
    b: str = Field(description="What it was in b, for a person.")
    unfair: bool = Field(description="Whether it makes the comparison unfair.")
    why: str = Field(description="Why it does, or does not.")


class Figure(BaseModel):
    """One figure of both runs."""

    a: Bounds = Field(description="In a; its interval holds what varied within the run.")
    b: Bounds = Field(description="In b; likewise.")
    ratio: Bounds = Field(description="b / a; its interval also holds the drift from run to run.")
    differs: bool = Field(description="Whether the two differ at this confidence, by the smallest effect or more.")


class Ecdf(BaseModel):
    """Empirical distribution of whole faults; at most 200 points, rising."""

    latency_ns: list[float] = Field(description="Lengths, ns.")
    share: list[float] = Field(description="Share of the faults that took at most so long, 0 to 1.")


class Stage(BaseModel):
    """One stage of both runs; a stage that a mode does not have has length 0."""

    stage: str = Field(description="raise, notify, serve, fill, or `wake` / `reenter` of either mode.")
    a_ns: float = Field(description="Mean over the faults around the median (40th to 60th percentile) in a, ns.")
    b_ns: float = Field(description="The same in b, ns.")
    difference_ns: float = Field(description="b less a, ns; those of all stages add up to that of the median faults.")
    mean_a_ns: float = Field(description="Mean over all faults in a, ns.")
    mean_b_ns: float = Field(description="Mean over all faults in b, ns.")
    mean_difference_ns: Bounds = Field(description="b less a of the means over all faults, ns.")


class VcpuFigures(BaseModel):
    """One vCPU of one run."""

    count: int = Field(description="Faults; a count.")
    p50: float = Field(description="Median, ns.")
    p99: float = Field(description="99th percentile, ns.")


class VcpuPair(BaseModel):
    """vCPUs of the same number in both runs; null where a run has none."""

    vcpu: int = Field(description="Number of the vCPU.")
    a: VcpuFigures | None = Field(description="In a.")
    b: VcpuFigures | None = Field(description="In b.")


class CountPair(BaseModel):
    """A count in both runs."""

    a: int = Field(description="In a.")
    b: int = Field(description="In b.")


class Verdict(BaseModel):
    """What the figures carry."""

    outcome: Literal["a_faster", "b_faster", "no_difference", "refused", "not_enough"] = Field(
        description="refused: the conditions make it unfair; not_enough: too few faults for any interval."
    )
    sentence: str = Field(description="The verdict in one sentence.")
    details: list[str] = Field(description="Further sentences: drift, stages, tails, rate.")
    forced: bool = Field(description="Whether a winner was called in spite of unfair conditions.")


class Comparison(BaseModel):
    """Two recordings held against each other."""

    a: Run = Field(description="The first recording.")
    b: Run = Field(description="The second recording, which ratios are of.")
    verdict: Verdict = Field(description="Which is faster, if any, in words.")
    confidence: float = Field(description="Confidence of every interval, 0 to 1.")
    drift: float = Field(description="Allowed for: standard deviation of the median from run to run, as a share.")
    smallest_effect: float = Field(description="A difference of a smaller share than this is called none.")
    seed: int = Field(description="Of the bootstrap: the same seed gives the same figures.")
    differences: list[Difference] = Field(description="Conditions that are not the same, the unfair ones first.")
    conditions_checked: list[str] = Field(description="All conditions that were looked at.")
    rate: Figure | None = Field(description="Faults per second of active time; null if there is too little.")
    latency_ns: dict[str, Figure] = Field(description="p50, p90, p99, mean and max of whole faults, ns.")
    ecdf_a: Ecdf = Field(description="Distribution of whole faults of A.")
    ecdf_b: Ecdf = Field(description="Distribution of whole faults of B.")
    stages: list[Stage] = Field(description="Stage by stage, those of each mode in their order.")
    vcpus: list[VcpuPair] = Field(description="By number; at most 1024.")
    exits: dict[str, CountPair] = Field(description="How KVM_RUN returned to userspace -> counts, exact.")
    hardware_exits: dict[str, CountPair] = Field(
        default={}, description="Why the CPU left the guest -> counts; empty where this kernel does not say."
    )
    fills: dict[str, CountPair] = Field(description="demand, background and failed fills -> counts, exact.")
