"""Estimate which share of a room's mutants the tests detect, from a random sample.

    python tests/mutants/sample.py study/blend --n 60 --seed 0
    python tests/mutants/sample.py study/blend --n 60 --seed 0 --again    # the survivors only, after a change of tests
    python tests/mutants/sample.py equations --all

Each mutant meets the tests that run its line, those that are fast and run little else first. A sample that was
interrupted goes on where it stopped. See tests/mutants/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from generate import Mutant, MutatedFile
from pool import Servers
from scipy.stats import binomtest
from selection import groups, measured, python_files, tests_of

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "mutants"
EQUIVALENT = Path(__file__).with_name("equivalent.md")
UNDETECTED = ("survived", "no tests")


def draw(sources: list[str], count: int | None, seed: int) -> list[Mutant]:
    """Draw mutants of the files uniformly, or return all of them; changes that are no Python are none."""
    files = [MutatedFile(source) for source in sources]
    numbers = [(file, number) for file in files for number in range(len(file))]
    print(f"{len(numbers)} mutants in {len(files)} files", flush=True)
    chosen = numbers if count is None else random.Random(seed).sample(numbers, min(count, len(numbers)))
    return [mutant for mutant in (file.mutant(number) for file, number in chosen) if _compiles(mutant)]


def _compiles(mutant: Mutant) -> bool:
    try:
        compile(mutant.source, mutant.path, "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def sources_of(room: str) -> list[str]:
    """Return the files of a room, or a file itself."""
    for path in (ROOT / "dropopt" / room, ROOT / f"dropopt/{room}.py"):
        if path.exists():
            return python_files(path)
    raise SystemExit(f"dropopt/{room} does not exist")


def try_all(room: str, mutants: list[Mutant], servers: Servers, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Try the mutants that have no stored result, and return the results of all."""
    size = "all" if options.all else f"{options.n}-{options.seed}"
    record = WORK / "results" / f"{room.removesuffix('.py').replace('/', '-')}-{size}.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    lines = record.read_text().splitlines() if record.exists() else []
    results = {result["key"]: result for result in map(json.loads, lines)}
    if options.again:
        results = {key: result for key, result in results.items() if result["status"] not in UNDETECTED}
    waiting = [(i, mutant) for i, mutant in enumerate(mutants) if mutant.key not in results]
    if not waiting:
        return [results[mutant.key] for mutant in mutants]
    sources = sources_of(room)
    files = [file for file in tests_of(room, sources, own=options.own) if file not in options.without]
    with ThreadPoolExecutor(options.jobs) as threads:
        tests = measured(servers, threads, files, sources)

        def attempt(item: tuple[int, Mutant]) -> None:
            number, mutant = item
            chosen = groups(mutant, tests, options.limit)
            answer = servers.ask({"kind": "try", "number": number, "mutant": vars(mutant), "groups": chosen})
            result = {name: value for name, value in vars(mutant).items() if name != "source"}
            results[mutant.key] = result | {"key": mutant.key} | answer
            with record.open("a") as file:
                file.write(json.dumps(results[mutant.key]) + "\n")
            if sys.stderr.isatty():
                print(f"\r{len(results)}/{len(mutants)}", end="", file=sys.stderr, flush=True)

        list(threads.map(attempt, waiting))
    return [results[mutant.key] for mutant in mutants]


def show(result: dict[str, Any]) -> str:
    """Describe a survivor."""
    lines = [f"{result['status']}: `{result['path']}:{result['line']}` `{result['function']}` `{result['key']}`"]
    lines += [f"    - {line}" for line in result["removed"].splitlines()]
    return "\n".join(lines + [f"    + {line}" for line in result["added"].splitlines()])


def summary(results: Iterable[dict[str, Any]], equivalent: set[str]) -> str:
    """Return counts, and the share of detected mutants with Wilson's interval of 95%."""
    found = Counter(
        "equivalent" if result["key"] in equivalent and result["status"] in UNDETECTED else result["status"]
        for result in results
    )
    detected = found["killed"] + found["timeout"]
    total = found.total() - found["equivalent"]
    interval = binomtest(detected, total).proportion_ci(method="wilson")
    counts = ", ".join(f"{number} {status}" for status, number in sorted(found.items()))
    return f"{counts}: {detected}/{total} = {detected / total:.1%} detected ({interval.low:.1%} to {interval.high:.1%})"


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "rooms", nargs="+", help="folders or files of dropopt/: engine, study/blend, study/run/slots.py"
    )
    parser.add_argument("--n", type=int, default=60, help="size of the sample of each room (default: 60)")
    parser.add_argument("--all", action="store_true", help="all mutants instead of a sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--limit", type=float, default=60, help="seconds of tests for one mutant (default: 60)")
    parser.add_argument("--again", action="store_true", help="try the survivors of this sample again")
    parser.add_argument("--own", action="store_true", help="only the tests in the room's own folder: faster, stricter")
    parser.add_argument("--without", nargs="+", default=[], metavar="FILE", help="files of tests to leave out")
    options = parser.parse_args()
    os.chdir(ROOT)
    listed = set(re.findall(r"^- `([0-9a-f]{8})`", EQUIVALENT.read_text(), re.MULTILINE))
    left = 0
    with Servers(ROOT, WORK, options.jobs) as servers:
        for room in options.rooms:
            mutants = draw(sources_of(room), None if options.all else options.n, options.seed)
            results = try_all(room, mutants, servers, options)
            survivors = [one for one in results if one["status"] in UNDETECTED and one["key"] not in listed]
            for result in sorted(survivors, key=lambda result: (result["path"], result["line"])):
                print(show(result))
            print(f"{room}: {summary(results, listed)}", flush=True)
            left += len(survivors)
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
