"""Which test of a file runs which lines of dropopt, with coverage.py."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

import dropopt

# PYTEST_CURRENT_TEST names the test in the processes that it starts.
CONFIG = """
[run]
source = {sources}
parallel = true
data_file = {folder}/data
context = ${{PYTEST_CURRENT_TEST-}}
patch = subprocess
disable_warnings = no-data-collected, module-not-imported, module-not-measured
"""


class Contexts:
    """Tell coverage which test runs.

    Lines that a fixture of a module or session runs belong to each test that uses the fixture, and lines that run while
    the file is imported to each of its tests.
    """

    def __init__(self, run: coverage.Coverage) -> None:
        self.run = run
        self.seconds: dict[str, float] = {}
        self.fixtures: dict[str, set[str]] = {}
        self.failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        """Measure one test, without what others left in caches."""
        for module in [module for name, module in sys.modules.items() if name.startswith("dropopt.")]:
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
        found = getattr(item, "_fixtureinfo", None)
        shared = {
            name
            for name, definitions in (found.name2fixturedefs if found else {}).items()
            if definitions[-1].scope != "function"
        }
        self.fixtures[item.nodeid] = {f"fixture {name}" for name in shared}
        self.current = item.nodeid
        self.run.switch_context(item.nodeid)
        start = sum(os.times()[:4])  # of the processor, also of ended processes that the test started
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = round(sum(os.times()[:4]) - start, 3)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[Any]:
        """Measure a shared fixture apart."""
        if fixturedef.scope == "function":
            return (yield)
        self.run.switch_context(f"fixture {fixturedef.argname}")
        try:
            return (yield)
        finally:
            self.run.switch_context(self.current)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Remember failures and skips: such a test detects nothing."""
        if report.outcome != "passed":
            self.failed.add(report.nodeid)


def measure(path: str, arguments: list[str]) -> dict[str, Any]:
    """Run a test file; return for each test its seconds and the lines of each file of dropopt that it ran."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "coverage.ini")
        # A fork may have imported dropopt from the tree of another one.
        sources = f"{Path(dropopt.__file__).parent}, {Path('dropopt').resolve()}"
        config.write_text(CONFIG.format(folder=folder, sources=sources))
        os.environ.pop("PYTEST_CURRENT_TEST", None)
        run = coverage.Coverage(config_file=str(config))
        contexts = Contexts(run)
        run.start()
        pytest.main([*arguments, path], plugins=[contexts])
        run.stop()
        run.save()
        merged = coverage.Coverage(config_file=str(config))
        merged.combine()
        data = merged.get_data()
        lines: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for file in data.measured_files():
            short = "dropopt/" + file.rpartition("/dropopt/")[2]
            for line, names in data.contexts_by_lineno(file).items():
                for name in names:
                    lines[name.split("|")[-1].removesuffix(" (call)").removesuffix(" (setup)")][short].append(line)
    tests = {}
    for test, seconds in contexts.seconds.items():
        if test not in contexts.failed:
            ran: dict[str, set[int]] = defaultdict(set)
            for name in (test, "", *contexts.fixtures[test]):
                for file, numbers in lines[name].items():
                    ran[file] |= set(numbers)
            tests[test] = {"seconds": seconds, "lines": {file: sorted(numbers) for file, numbers in ran.items()}}
    return {"tests": tests, "failed": sorted(contexts.failed)}
