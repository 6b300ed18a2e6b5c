"""Estimate which share of a room's mutants the tests detect, from a random sample.

    python tests/mutants/sample.py study/blend --n 60 --seed 0
    python tests/mutants/sample.py equations --all
    python tests/mutants/sample.py study/blend --n 60 --seed 0 --again    # the survivors only, after a change of tests

Each mutant meets the tests that run its line, those that are fast and run little else first. A sample that was
interrupted goes on where it stopped. See tests/mutants/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from generate import Mutant, MutatedFile
from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "mutants"
EQUIVALENT = Path(__file__).with_name("equivalent.md")
# The tests of a room are those in the folder of the same name under tests/, the examples in its docstrings, and these.
MORE_TESTS = {
    "equations": ["tests/test_equations.py", "tests/test_equations_limits.py"],
    "study/after": ["tests/study/test_study.py", "tests/study/command", "tests/test_cli.py", "tests/test_export.py"],
    "study/run": ["tests/study/test_study.py", "tests/study/command", "tests/test_cli.py"],
    "study/define": ["tests/study/test_study.py", "tests/test_config.py"],
    "study/search": ["tests/study/test_study.py"],
}
# They measure time, or compile code that the mutants replace.
LEFT_OUT = re.compile(r"test_compiles_whole|is_cheap|overhead|stays_fast")
GROUPS = (2.0, 12.0, 60.0)


class Servers:
    """Processes that run tests, each in its own copy of the repository."""

    def __init__(self, jobs: int) -> None:
        WORK.mkdir(exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(dir=WORK, prefix="trees-")
        self._free: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        self.processes = [self._start(number) for number in range(jobs)]
        for process in self.processes:
            self._free.put(process)

    def _start(self, number: int) -> subprocess.Popen[str]:
        tree = Path(self._folder.name, str(number))
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.decode()
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        environment = os.environ | {
            "CI": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(tree),
            "MUTANT_LOG": str(tree) + ".log",
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # pytest keeps the tests' compiled files
        return subprocess.Popen(
            [sys.executable, "tests/mutants/server.py"],
            cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        """Give a task to a free process and wait for its answer."""
        process = self._free.get()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
            return answer
        finally:
            self._free.put(process)

    def stop(self) -> None:
        """End all processes."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
        self._folder.cleanup()


def digest(path: str) -> str:
    """Return a digest of a file's contents."""
    return hashlib.sha1((ROOT / path).read_bytes()).hexdigest()[:12]


def python_files(path: Path) -> list[str]:
    """Return the Python files of a path, relative to the repository."""
    return sorted(str(file.relative_to(ROOT)) for file in ([path] if path.is_file() else path.rglob("*.py")))


def test_files(room: str, sources: list[str]) -> list[str]:
    """Return the files with tests of a room."""
    folders = [f"tests/{room}", *MORE_TESTS.get(room, [])]
    tests = [file for folder in folders if (ROOT / folder).exists() for file in python_files(ROOT / folder)]
    examples = [file for file in sources if ">>> " in (ROOT / file).read_text()]
    return [file for file in dict.fromkeys(tests) if Path(file).name.startswith("test_")] + examples


def measured(servers: Servers, pool: ThreadPoolExecutor, files: list[str], sources: list[str]) -> dict[str, Any]:
    """Return seconds and lines of every test in the files; measure the files that changed, or whose sources did."""
    digests = {source: digest(source) for source in sources}
    stored: dict[str, dict[str, Any]] = {}

    def record(file: str) -> Path:
        return WORK / "lines" / (file.replace("/", "__") + ".json")

    def measure(file: str) -> None:
        answer = servers.ask({"kind": "measure", "path": file})
        for failed in answer["failed"]:
            print(f"left out, since it did not pass unchanged: {failed}", flush=True)
        ran = {source for test in answer["tests"].values() for source in test["lines"]}
        answer |= {"digest": digest(file), "sources": {source: digest(source) for source in sorted(ran)}}
        record(file).parent.mkdir(parents=True, exist_ok=True)
        record(file).write_text(json.dumps(answer))
        stored[file] = answer

    stale = []
    for file in files:
        old = json.loads(record(file).read_text()) if record(file).exists() else {}
        current = old.get("digest") == digest(file)
        if current and all(
            old["sources"][source] == digests[source] for source in old["sources"].keys() & digests.keys()
        ):
            stored[file] = old
        else:
            stale.append(file)
    if stale:
        print(f"measuring which lines run in {len(stale)} files of tests", flush=True)
        list(pool.map(measure, stale))
    tests = {test: found for file in stored.values() for test, found in file["tests"].items()}
    return {test: found for test, found in tests.items() if not LEFT_OUT.search(test)}


def groups(mutant: Mutant, tests: dict[str, Any], limit: float) -> list[dict[str, Any]]:
    """Return the tests that run a mutant's line, in groups that take longer and longer."""
    last = mutant.line + max(mutant.removed.count("\n"), 0)
    # A line that continues a statement may be recorded at its first line: look back to the nearest line that ran.
    lines = set(range(mutant.line, last + 1))
    ran = {line for test in tests.values() for line in test["lines"].get(mutant.path, ())}
    if not lines & ran and (before := [line for line in ran if line < mutant.line]):
        lines.add(max(before))
    covering = [
        (test, found["seconds"], sum(map(len, found["lines"].values())))
        for test, found in tests.items()
        if lines & set(found["lines"].get(mutant.path, ()))
    ]
    covering.sort(key=lambda item: (item[1] + 0.01) * item[2])
    result: list[dict[str, Any]] = []
    total = 0.0
    bounds = iter((*GROUPS, limit))
    bound = 0.0
    for test, seconds, _ in covering:
        total += seconds
        if total > limit and result:
            break
        if not result or total > bound:
            result.append({"tests": [], "seconds": 0.0})
            bound = next(bounds, limit)
        result[-1]["tests"].append(test)
        result[-1]["seconds"] += seconds
    return result


def draw(sources: list[str], count: int | None, seed: int) -> list[Mutant]:
    """Draw mutants of the files uniformly, or return all of them."""
    files = [MutatedFile(source) for source in sources]
    numbers = [(file, number) for file in files for number in range(len(file))]
    print(f"{len(numbers)} mutants in {len(files)} files", flush=True)
    chosen = numbers if count is None else random.Random(seed).sample(numbers, min(count, len(numbers)))
    return [file.mutant(number) for file, number in chosen]


def show(result: dict[str, Any]) -> str:
    """Describe a survivor."""
    lines = [f"{result['status']}: `{result['path']}:{result['line']}` `{result['function']}` `{result['key']}`"]
    lines += [f"    - {line}" for line in result["removed"].splitlines()]
    return "\n".join(lines + [f"    + {line}" for line in result["added"].splitlines()])


def summary(results: Iterable[dict[str, Any]], equivalent: set[str]) -> str:
    """Return counts, and the share of detected mutants with Wilson's interval of 95%."""
    found = Counter(
        "equivalent" if r["key"] in equivalent and r["status"] in UNDETECTED else r["status"] for r in results
    )
    detected = found["killed"] + found["timeout"]
    total = found.total() - found["equivalent"]
    interval = binomtest(detected, total).proportion_ci(method="wilson")
    counts = ", ".join(f"{number} {status}" for status, number in sorted(found.items()))
    return f"{counts}: {detected}/{total} = {detected / total:.1%} detected ({interval.low:.1%} to {interval.high:.1%})"


UNDETECTED = ("survived", "no tests")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", help="a folder or file of dropopt/, such as engine, study/blend, study/blend/paths.py")
    parser.add_argument("--n", type=int, default=60, help="size of the sample (default: 60)")
    parser.add_argument("--all", action="store_true", help="all mutants instead of a sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--limit", type=float, default=60, help="seconds of tests for one mutant (default: 60)")
    parser.add_argument("--again", action="store_true", help="try the survivors of this sample again")
    parser.add_argument("--tests", nargs="*", default=[], help="further files or folders of tests")
    options = parser.parse_args()
    os.chdir(ROOT)
    room = options.room.removesuffix(".py")
    path = next((p for p in (ROOT / "dropopt" / room, ROOT / f"dropopt/{room}.py") if p.exists()), None)
    if path is None:
        parser.error(f"dropopt/{options.room} does not exist")
    sources = python_files(path)
    folder = next((name for name in (room, str(Path(room).parent)) if (ROOT / "tests" / name).is_dir()), room)
    files = test_files(room if room in MORE_TESTS else folder, sources)
    files += [file for more in options.tests for file in python_files(ROOT / more)]

    mutants = draw(sources, None if options.all else options.n, options.seed)
    record = (
        WORK / "results" / f"{room.replace('/', '-')}-{'all' if options.all else f'{options.n}-{options.seed}'}.jsonl"
    )
    record.parent.mkdir(parents=True, exist_ok=True)
    results = (
        {line["key"]: line for line in map(json.loads, record.read_text().splitlines())} if record.exists() else {}
    )
    if options.again:
        results = {key: result for key, result in results.items() if result["status"] not in UNDETECTED}
    waiting = [(i, mutant) for i, mutant in enumerate(mutants) if mutant.key not in results]

    if waiting:
        servers = Servers(options.jobs)
        with ThreadPoolExecutor(options.jobs) as pool:
            tests = measured(servers, pool, files, sources)

            def attempt(item: tuple[int, Mutant]) -> None:
                number, mutant = item
                try:
                    compile(mutant.source, mutant.path, "exec", dont_inherit=True)
                except SyntaxError:
                    answer = {"status": "killed", "by": "SyntaxError", "seconds": 0.0}
                else:
                    chosen = groups(mutant, tests, options.limit)
                    answer = servers.ask({"kind": "try", "number": number, "mutant": vars(mutant), "groups": chosen})
                result = {name: value for name, value in vars(mutant).items() if name != "source"}
                results[mutant.key] = result | {"key": mutant.key} | answer
                with record.open("a") as file:
                    file.write(json.dumps(results[mutant.key]) + "\n")
                if sys.stderr.isatty():
                    print(f"\r{len(results)}/{len(mutants)}", end="", file=sys.stderr, flush=True)

            list(pool.map(attempt, waiting))
        servers.stop()

    listed = (
        set(re.findall(r"^- `([0-9a-f]{8})`", EQUIVALENT.read_text(), re.MULTILINE)) if EQUIVALENT.exists() else set()
    )
    drawn = [results[mutant.key] for mutant in mutants]
    survivors = [result for result in drawn if result["status"] in UNDETECTED and result["key"] not in listed]
    for result in sorted(survivors, key=lambda result: (result["path"], result["line"])):
        print(show(result))
    print(f"{options.room}: {summary(drawn, listed)}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
