"""Processes that run tests, each in its own copy of the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self, TextIO


def copy_repository(root: Path, tree: Path) -> Path:
    """Copy the files of a repository that git does not ignore, and return the folder of the copy."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
    for name in names:
        if name and (root / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name)
    return tree


class Servers:
    """Forks of one process of ``server.py``, which starts with the first task."""

    def __init__(self, root: Path, work: Path, jobs: int) -> None:
        self._root, self._work, self._jobs = root, work, jobs
        self._free: SimpleQueue[tuple[TextIO, TextIO]] = SimpleQueue()
        self._pipes: list[TextIO] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        if self._process:
            self._process.wait()
            self._folder.cleanup()

    def _start(self) -> None:
        self._work.mkdir(exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(dir=self._work, prefix="trees-")
        trees = [str(copy_repository(self._root, Path(self._folder.name, str(number)))) for number in range(self._jobs)]
        inputs, outputs = ([os.pipe() for _ in trees] for _ in range(2))
        theirs = [str(fd) for (task, _), (_, answer) in zip(inputs, outputs, strict=True) for fd in (task, answer)]
        environment = os.environ | {"CI": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": trees[0]}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # pytest keeps the tests' compiled files
        command = [sys.executable, "tests/mutants/server.py", *trees, *theirs]
        self._process = subprocess.Popen(command, cwd=trees[0], env=environment, pass_fds=[int(fd) for fd in theirs])
        for fd in theirs:
            os.close(int(fd))
        for (_, task), (answer, _) in zip(inputs, outputs, strict=True):
            pair = os.fdopen(task, "w"), os.fdopen(answer)
            self._pipes += pair
            self._free.put(pair)

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        """Give a task to a free process and wait for its answer; threads share the processes."""
        pair = self._free.get()
        try:
            pair[0].write(json.dumps(task) + "\n")
            pair[0].flush()
            line = pair[1].readline()
        finally:
            self._free.put(pair)
        if not line:
            raise SystemExit("a process that runs tests ended; see its message above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(self) -> None:
        """Start the processes, unless they run."""
        if self._process is None:
            self._start()
