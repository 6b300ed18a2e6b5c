"""Try the hand-made faults of ``faults.jsonl``: does a test notice each of them?

    python tests/mutants/faults.py                    # all of them; about half an hour
    python tests/mutants/faults.py study/confirm      # those of a room or a file
    python tests/mutants/faults.py --n 20 --seed 0    # a sample

Each fault is put into a copy of the repository, where its nearest tests run until one fails. Results are kept, and a
fault is tried again when its file or its tests have changed. See tests/mutants/README.md.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool import copy_repository
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from selection import python_files
from server import PRELOAD, PYTEST, in_child

ROOT = Path(__file__).resolve().parents[2]
BANK = Path(__file__).with_name("faults.jsonl")
WORK = ROOT / "mutants"
RECORD = WORK / "results" / "faults.jsonl"
#: Seconds after which the tests of a fault count as failed.
LIMIT = 300
STYLES = {"found": "green", "missed": "bold red", "equivalent": "dim", "stale": "yellow"}


@dataclass(frozen=True)
class Fault:
    """A text of a file that is replaced, and the tests that should notice it.

    ``equivalent`` is the reason why no test can, if there is one.
    """

    file: str
    old: str
    new: str
    tests: list[str]
    equivalent: str = ""

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.file}: `{old}` -> `{new}`"

    @property
    def room(self) -> str:
        """The folder of the file as the table names it: engine, study/blend."""
        folders = self.file.removeprefix("dropopt/").removesuffix(".py").split("/")
        return "/".join(folders[: 2 if folders[0] == "study" else 1])

    def is_in(self, place: str) -> bool:
        """Whether the file is, or lies in, a place such as study/confirm or dropopt/study/confirm/race.py."""
        within = place.strip("/").removeprefix("dropopt/").removesuffix(".py")
        return f"{self.file.removesuffix('.py')}/".startswith(f"dropopt/{within}/")

    def known(self) -> str:
        """Return the result that is known without running a test: stale, equivalent or none.

        A fault is stale if the code has changed, so that the text no longer occurs or occurs several times, or if a
        file of its tests is gone.
        """
        if not all(Path(path).exists() for path in (self.file, *self.tests)):
            return "stale"
        if Path(self.file).read_text().count(self.old) != 1:
            return "stale"
        return "equivalent" if self.equivalent else ""

    def key(self) -> str:
        """Return a digest of the fault, its file and its tests: a result counts until one of them changes."""
        digest = hashlib.sha1(json.dumps([self.file, self.old, self.new, self.tests]).encode())
        for path in (self.file, *self.tests):
            for file in python_files(ROOT / path) if (ROOT / path).exists() else ():
                digest.update((ROOT / file).read_bytes())
        return digest.hexdigest()[:12]


class Order:
    """Run one test before all others and leave some out, and remember the first that fails."""

    def __init__(self, first: str = "", without: Collection[str] = ()) -> None:
        self.first, self.without = first, without
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Choose and sort the tests."""
        chosen = [item for item in items if item.nodeid not in self.without]
        items[:] = sorted(chosen, key=lambda item: item.nodeid != self.first)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Remember a test that failed, or a file that could not be imported."""
        if report.failed:
            self.failed = self.failed or report.nodeid

    pytest_collectreport = pytest_runtest_logreport


def failure(tests: list[str], order: Order) -> str:
    """Run tests in a fork. Return the first that failed, or how the fork ended, or an empty text if all passed."""

    def run() -> str:
        import pytest

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = pytest.main([*PYTEST, "-x", *tests], plugins=[order])
        return order.failed or ("" if code in (0, 5) else f"pytest ended with {int(code)}")

    ending, failed = in_child(run, LIMIT, LIMIT)
    return str(failed) if ending == "done" else ending


@contextmanager
def applied(fault: Fault, number: int) -> Iterator[None]:
    """Change the file of a fault in the copy, which is the working directory."""
    path = Path(fault.file)
    original, times = path.read_text(), path.stat()
    try:
        path.write_text(original.replace(fault.old, fault.new))
        # A modification time of its own, since Python's cache of compiled files looks at whole seconds.
        os.utime(path, (number + 10**9,) * 2)
        yield
    finally:
        path.write_text(original)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def attempt(fault: Fault, number: int, first: str, sound: set[str], broken: set[str]) -> dict[str, Any]:
    """Run the tests of a fault until one fails, ``first`` before the others.

    A test that fails without the fault as well finds nothing. It is left out, and remembered as ``broken``.
    """
    start = time.monotonic()
    while True:
        with applied(fault, number):
            by = failure(fault.tests, Order(first, broken))
        if "::" in by and by not in sound:
            (broken if failure([by], Order()) else sound).add(by)
        if by not in broken:
            return {"status": "found" if by else "missed", "by": by, "seconds": round(time.monotonic() - start, 1)}


@contextmanager
def in_copy() -> Iterator[None]:
    """Work in a copy of the repository, after importing what the tests need, but nothing of dropopt."""
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK, prefix="trees-") as folder:
        tree = copy_repository(ROOT, Path(folder, "0"))
        os.environ |= {"CI": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree), "MUTANT_LOG": f"{tree}.log"}
        for name in PRELOAD:
            importlib.import_module(name)
        gc.freeze()
        sys.path[:] = [str(tree), *(path for path in sys.path if path != str(ROOT))]
        os.chdir(tree)
        try:
            yield
        finally:
            os.chdir(ROOT)


def try_all(faults: list[Fault], again: bool, console: Console) -> Iterator[tuple[Fault, dict[str, Any]]]:
    """Yield each fault with its result, which is stored at once, or read if it was stored before."""
    stored = [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.exists() else []
    results = {} if again else {result["key"]: result for result in stored}
    last = {tuple(result["fault"]): result["by"] for result in stored if result["by"]}
    sound: set[str] = set(last.values())
    broken: set[str] = set()
    keys = [fault.key() for fault in faults]
    with in_copy(), Progress(console=console, auto_refresh=False) as progress:  # forks have no thread that refreshes
        for number, (fault, key) in enumerate(zip(progress.track(faults), keys, strict=True)):
            progress.refresh()
            if known := fault.known():
                yield fault, {"status": known, "by": fault.equivalent}
                continue
            if key not in results:
                name = [fault.file, fault.old, fault.new]
                results[key] = {"key": key, "fault": name}
                results[key] |= attempt(fault, number, last.get(tuple(name), ""), sound, broken)
                RECORD.parent.mkdir(parents=True, exist_ok=True)
                with RECORD.open("a") as file:
                    file.write(json.dumps(results[key]) + "\n")
            yield fault, results[key]
    for test in sorted(broken):
        console.print(f"left out, since it fails without a fault as well: {escape(test)}")


def table(counts: dict[str, Counter[str]]) -> Table:
    """Return the number of faults of each room by result, and the share that was found of those that can be."""
    found = Table("room", "faults", *STYLES, "share")
    rows = sorted(counts.items())
    for room, count in [*rows, ("all", sum(counts.values(), Counter()))] if len(rows) > 1 else rows:
        tried = count["found"] + count["missed"]
        share = f"{count['found'] / tried:.0%}" if tried else ""
        found.add_row(room, str(count.total()), *(str(count[status]) for status in STYLES), share)
    return found


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", help="rooms or files of dropopt/: engine, study/run, study/run/slots.py")
    parser.add_argument("--n", type=int, help="a sample of this size (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--again", action="store_true", help="try also those whose result is known")
    options = parser.parse_args()
    faults = [Fault(**json.loads(line)) for line in BANK.read_text().splitlines()]
    if options.places:
        faults = [fault for fault in faults if any(fault.is_in(place) for place in options.places)]
    if options.n is not None:
        faults = random.Random(options.seed).sample(faults, min(options.n, len(faults)))
    if not faults:
        parser.error(f"no fault lies in {' or '.join(options.places)}")
    console = Console(soft_wrap=True)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, which also ends what the tests started
    try:
        for fault, result in try_all(faults, options.again, console):
            status = result["status"]
            counts[fault.room][status] += 1
            console.print(f"[{STYLES[status]}]{status:10}[/] {escape(str(fault))}  {escape(result['by'])}")
    except KeyboardInterrupt:
        console.print("Interrupted. The same command goes on from here.")
        return 130
    console.print(table(counts))
    return int(any(count["missed"] for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
