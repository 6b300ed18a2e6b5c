"""Which tests meet a mutant."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from generate import Mutant
from pool import Servers

ROOT = Path(__file__).resolve().parents[2]
LINES = ROOT / "mutants" / "lines"
# The tests of a room are those in the folder of the same name under tests/, the examples in its docstrings, and these.
MORE_TESTS = {
    "study/after": [
        "tests/standalone",
        "tests/study/command",
        "tests/study/session",
        "tests/test_cli.py",
        "tests/test_export.py",
    ],
    "study/run": ["tests/study/test_study.py", "tests/study/command", "tests/study/session", "tests/test_cli.py"],
    "study/confirm": [
        "tests/faults/test_confirmations.py",
        "tests/study/session/test_comparing.py",
        "tests/study/session/test_confirming.py",
        "tests/study/show/test_comparison.py",
    ],
    "study/define": ["tests/study/test_study.py", "tests/test_config.py"],
    "study/search": ["tests/study/test_study.py", "tests/faults/test_trust.py"],
}
# They measure time, or compile code that the mutants replace.
LEFT_OUT = re.compile(r"test_compiles_whole|is_cheap|overhead|stays_fast")
#: Bounds, in seconds, of the groups of tests that a mutant meets one after the other.
GROUPS = (2.0, 12.0)


def digest(path: str) -> str:
    """Return a digest of a file's contents."""
    return hashlib.sha1((ROOT / path).read_bytes()).hexdigest()[:12]


def python_files(path: Path) -> list[str]:
    """Return the Python files of a path, relative to the repository."""
    return sorted(str(file.relative_to(ROOT)) for file in ([path] if path.is_file() else path.rglob("*.py")))


def tests_of(room: str, sources: list[str], own: bool) -> list[str]:
    """Return the files of tests of a room, and its sources that have examples."""
    path = Path("tests", room)
    if (ROOT / path).is_dir():
        files = python_files(ROOT / path)
    elif path.parent == Path("tests"):
        files = [str(file.relative_to(ROOT)) for file in sorted((ROOT / "tests").glob(f"test_{path.stem}*.py"))]
    else:
        files = python_files(ROOT / path.parent)
    if not own:
        files += [file for more in MORE_TESTS.get(room, []) for file in python_files(ROOT / more)]
    examples = [source for source in sources if ">>> " in (ROOT / source).read_text()]
    return [file for file in dict.fromkeys(files) if Path(file).name.startswith("test_")] + examples


def measured(servers: Servers, threads: ThreadPoolExecutor, files: list[str], sources: list[str]) -> dict[str, Any]:
    """Return seconds and lines of every test in the files; measure the files that changed, or whose sources did."""
    digests = {source: digest(source) for source in sources}
    stored: dict[str, dict[str, Any]] = {}

    def record(file: str) -> Path:
        return LINES / (file.replace("/", "__") + ".json")

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
        ran = old.get("sources", {})
        if old.get("digest") == digest(file) and all(ran[one] == digests[one] for one in ran.keys() & digests.keys()):
            stored[file] = old
        else:
            stale.append(file)
    servers.start()
    if stale:
        print(f"measuring which lines run in {len(stale)} files of tests", flush=True)
        list(threads.map(measure, stale))
    tests = {test: found for file in files for test, found in stored[file]["tests"].items()}
    return {test: found for test, found in tests.items() if not LEFT_OUT.search(test)}


def _begun_by(mutant: Mutant) -> set[int]:
    """Return the line of a function's first statement if the mutant changes the signature, which runs at the import."""
    body: list[ast.stmt] = ast.parse((ROOT / mutant.path).read_text()).body
    for name in mutant.function.split("."):
        body = next(node.body for node in body if getattr(node, "name", "") == name)  # type: ignore[attr-defined]
    first = body[1] if len(body) > 1 and isinstance(body[0], ast.Expr) else body[0]
    return {first.lineno} if mutant.line < body[0].lineno else set()


def groups(mutant: Mutant, tests: dict[str, Any], limit: float) -> list[dict[str, Any]]:
    """Return the tests that run a mutant's line, in groups that take longer and longer.

    Processes that a test kills leave no record of their lines, so mutants of a file without a record meet all tests.
    """
    lines = set(range(mutant.line, mutant.line + mutant.removed.count("\n") + 1))
    lines |= _begun_by(mutant)
    # A line that continues a statement may be recorded at its first line: look back to the nearest line that ran.
    ran = {line for test in tests.values() for line in test["lines"].get(mutant.path, ())}
    if not lines & ran and (before := [line for line in ran if line < mutant.line]):
        lines.add(max(before))
    covering = [
        (test, found["seconds"], sum(map(len, found["lines"].values())))
        for test, found in tests.items()
        if not ran or lines & set(found["lines"].get(mutant.path, ()))
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
