"""What a bench found out: the JSON beside its recordings."""

from pydantic import BaseModel, Field


class RunResult(BaseModel):
    """One run, in the order in which they were made."""

    mode: str = Field(description="uffd or exit.")
    vcpus: int = Field(description="vCPUs of the guest.")
    handlers: int = Field(description="Handler threads; 0 in exit mode.")
    repeat: int = Field(description="Number of the repeat, from 0.")
    traced: bool = Field(description="Whether collector and recording ran.")
    faults: int = Field(description="Faults by the guest's own count.")
    wall_ns: int = Field(description="How long they took by the guest's own clock, ns.")
    rate_per_s: float = Field(description="Faults per second.")
    recording: str | None = Field(default=None, description="Id of the recording that was made, if it was kept.")
    recorded: int | None = Field(default=None, description="Records in it.")
    loss: dict[str, int] = Field(default={}, description="Loss ledger of the recording, without what was zero.")


class Spread(BaseModel):
    """Repeats of one measurement."""

    median: float
    low: float = Field(description="Lowest of the repeats.")
    high: float = Field(description="Highest of the repeats.")
    count: int = Field(description="Number of repeats.")


class PointResult(BaseModel):
    """One point of the curves."""

    mode: str
    vcpus: int
    handlers: int
    untraced_per_s: Spread | None = Field(description="Faults per second without any tracing.")
    traced_per_s: Spread | None = Field(description="Faults per second with collector and recording.")
    cost: Spread | None = Field(
        description="Traced rate / untraced rate of runs a moment apart, by repeat: 1 is a tool that is free."
    )
    published_per_s: int | None = Field(description="What was published for this number of vCPUs on 256 cores.")
    recording: str | None = Field(description="Id of the recording of the traced run nearest to the median.")


class Summary(BaseModel):
    """A whole bench."""

    id: str = Field(description="Begin of the names of all its files.")
    version: str
    host: str
    kernel: str
    cpus: int
    cpu_model: str | None
    started_wall_ms: int = Field(description="Wall clock, ms since 1970.")
    pages: int = Field(description="Pages in all that each guest touched.")
    repeats: int
    seed: int = Field(description="Of the order of the runs.")
    complete: bool = Field(description="Whether all runs were made.")
    planned: int = Field(description="Runs that were planned.")
    drift: float | None = Field(
        description="Standard deviation of the logarithm of a rate from repeat to repeat, over all points: what "
        "`exitscope compare --drift` wants. null with fewer than three repeats."
    )
    published: str = Field(description="Where the published figures come from.")
    notes: list[str] = Field(description="What the reader must know.")
    points: list[PointResult]
    runs: list[RunResult]
