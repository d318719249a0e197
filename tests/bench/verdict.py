"""How often a comparison of two real runs says what is true: none for runs of one mode, one for uffd against exit."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from exitscope.bench import tracer
from exitscope.compare.comparison import compare
from exitscope.recordings.file import RecordingFile
from tests.bench.figure import Effort, Row
from tests.bench.guests import run_guest, settle, undisturbed

TRIES = 20
ENOUGH = 19
PAGES = 20_000
MODES = ("uffd", "exit")


def rows(effort: Effort) -> Iterator[Row]:
    made: dict[str, list[RecordingFile]] = {mode: [] for mode in MODES}
    with TemporaryDirectory(prefix="exitscope-bench-") as directory:
        place = Path(directory)
        with tracer.collecting(place) as socket:
            for number in range(effort.rounds(TRIES) + 1):
                for mode in MODES:
                    made[mode].append(undisturbed(partial(_record, socket, place, mode, number, effort)))
        for mode in MODES:
            said = [compare(a, b).verdict.outcome for a, b in pairwise(made[mode])]
            yield _row(f"two runs of {mode} mode, 1 vCPU: comparisons that say no difference", said, "no_difference")
        said = [compare(a, b).verdict.outcome for a, b in zip(*made.values(), strict=True)][1:]
        yield _row("uffd mode against exit mode, 1 vCPU: comparisons that say exit is faster", said, "b_faster")


def _row(what: str, said: Sequence[str], wanted: str) -> Row:
    count = said.count(wanted)
    need = ENOUGH if wanted == "no_difference" else TRIES
    others = sorted(set(said) - {wanted})
    return Row(
        what, f"{count} of {len(said)}", f"≥ {need} of {TRIES}", count * TRIES >= need * len(said), ", ".join(others)
    )


def _record(socket: str, directory: Path, mode: str, number: int, effort: Effort) -> RecordingFile:
    settle()
    recording_id = f"{mode}-{number}"
    with tracer.recording(socket, directory, recording_id, recording_id) as made:
        run_guest("--mode", mode, "--vcpus", 1, "--pages", effort.pages(PAGES), "--pause-ms-before-exit", 500)
    return RecordingFile.open(made.path)
