"""What a second slot adds: the same study with one slot and with two, in turns.

    python -m tests.benchmarks.throughput --only slots

Trials per hour depend on whether the processors are idle, so the load by other processes is printed as well. Two other
numbers hardly depend on it: the processor time that a slot spends on a trial, which must not rise with a second slot,
and the share of the owner of the slots.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from dropopt.config import DataConfig, ModelConfig, RunConfig
from dropopt.study.store.search_ledger import SearchLedger
from tests.benchmarks.engine import print_table

#: Trials of each slot in a round, and the epochs of a trial.
TRIALS, EPOCHS = 4, 4
#: The variable that names the file for the processor time of each trial.
TIMES = "SLOTS_TIMES"

_SPACE = "engine:\n  r0: {low: 0.2, high: 0.3}\n  allocation: [uniform, importance]\n"


@dataclass(frozen=True)
class Measured:
    """One study.

    Attributes:
        per_hour: Trials per hour.
        slot: Seconds of processor time that a slot spends on a trial.
        owner: The part of a processor that the owner of the slots uses.
        others: How many processors other processes used meanwhile.
    """

    per_hour: float
    slot: float
    owner: float
    others: float


def train(run: RunConfig, *arguments: Any, **options: Any) -> Any:
    """Train a trial in a slot, and note its processor time."""
    from dropopt.training import train_run

    began = time.process_time()
    result = train_run(run, *arguments, **options)
    with open(os.environ[TIMES], "a", encoding="utf-8") as file:
        file.write(f"{time.process_time() - began}\n")
    return result


class TimedLedger(SearchLedger):
    """Notes the time and the owner's processor time at the first start and the last end of a trial."""

    marks: ClassVar[list[tuple[float, float]]] = []

    def ask(self, *arguments: Any) -> Any:
        """Start a trial."""
        self.marks.append((time.perf_counter(), time.process_time()))
        return super().ask(*arguments)

    def complete(self, *arguments: Any, **facts: Any) -> str:
        """End a trial."""
        failure = super().complete(*arguments, **facts)
        self.marks.append((time.perf_counter(), time.process_time()))
        return failure


def measure(slots: int) -> Measured:
    """Run a study with a number of slots."""
    from dropopt.study import Study
    from dropopt.study.run.slots import Targets
    from dropopt.study.session import session
    from dropopt.study.session.request import Request

    count = TRIALS * slots
    with tempfile.TemporaryDirectory() as folder, _others() as others:
        space, times = Path(folder, "space.yaml"), Path(folder, "times")
        space.write_text(_SPACE)
        os.environ[TIMES] = str(times)
        os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
        study = Study(
            name="slots",
            space=str(space),
            data=DataConfig(name="fashion-mnist", subset=5000),
            model=ModelConfig(name="small"),
            train={"epochs": EPOCHS, "batch_size": 128, "amp": "bf16", "channels_last": True},
            engine={"pattern": "channel"},
            n_trials=count,
            pruner="none",
            anchors=False,
        )
        targets = Targets(train="tests.benchmarks.slots:train")
        TimedLedger.marks.clear()
        with mock.patch.object(session, "SearchLedger", TimedLedger), contextlib.redirect_stdout(io.StringIO()):
            request = Request(study, Path(__file__), f"sqlite:///{folder}/s.db", slots, "", targets)
            if session.run(request):
                raise SystemExit("the trials failed")
        spent = [float(line) for line in times.read_text().split()]
    (began, owner), (ended, owner_ended) = TimedLedger.marks[0], TimedLedger.marks[-1]
    elapsed = ended - began
    return Measured(3600 * count / elapsed, statistics.mean(spent), (owner_ended - owner) / elapsed, others[0])


def report(rounds: int) -> None:
    """Measure one and two slots in turns, and print what a second slot adds."""
    found: dict[int, list[Measured]] = {1: [], 2: []}
    rows = []
    for turn in range(rounds):
        for slots in (1, 2) if turn % 2 == 0 else (2, 1):
            one = measure(slots)
            found[slots].append(one)
            cells = [f"{one.per_hour:.0f}", f"{one.slot:.2f}", f"{one.owner:.2%}", f"{one.others:.2f}"]
            rows.append([f"{slots}", *cells])
            print(*rows[-1], flush=True)
    print(f"\n{TRIALS} trials of {EPOCHS} epochs for each slot, {rounds} rounds\n")
    heads = ["slots", "trials per hour", "slot, s a trial", "owner, of a processor", "processors used by others"]
    print_table(heads, rows)
    pairs = list(zip(found[1], found[2], strict=True))
    work = statistics.median(two.per_hour / one.per_hour for one, two in pairs)
    slot = statistics.median(two.slot / one.slot for one, two in pairs)
    share = statistics.median(two.owner for _, two in pairs)
    print(
        f"\ntwo slots do {work:.2f} times the work of one; a trial costs a slot {slot:.2f} times the processor time, "
        f"and the owner uses {share:.2%} of a processor"
    )
    if max(one.others for pair in pairs for one in pair) > 0.1:
        print("the processors were not idle: judge by the processor time, not by the trials per hour")


@contextlib.contextmanager
def _others() -> Iterator[list[float]]:
    """A list that holds, after the block, how many processors other processes used; NaN where it is not known."""
    found: list[float] = []
    began, busy, own = time.perf_counter(), _busy(), _own()
    yield found
    found.append((_busy() - busy - (_own() - own)) / (time.perf_counter() - began))


def _busy() -> float:
    """Seconds that all processors have worked since the boot."""
    try:
        user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    except OSError:
        return float("nan")
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Seconds of processor time of this process and the children that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
