"""A process that has imported torch and dropopt, and forks to run tests.

It reads one JSON task per line and answers with one JSON line. It runs inside a copy of the repository, because a
mutant is both put into the imported functions and written to the file: tests may start further processes.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path
from typing import Any

PRELOAD = ("captum.attr", "hypothesis", "optuna", "pytest", "scipy.stats", "sklearn.gaussian_process", "timm")
PRELOAD += ("torch._dynamo", "torchvision", "typer.testing", "unittest.mock", "zennit.composites")
MEMORY = 20 << 30
PYTEST = [
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "--tb=line",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
]


def preload() -> None:
    """Import everything that the tests need, so that a fork has it."""
    for name in PRELOAD:
        importlib.import_module(name)
    import dropopt

    for module in pkgutil.walk_packages(dropopt.__path__, "dropopt."):
        if "integrations" not in module.name and not module.name.endswith(("__main__", "ray_slots", "proxy_server")):
            importlib.import_module(module.name)
    import pytest

    # Import pytest's plugins, and let hypothesis read the constants of all modules, once.
    pytest.main([*PYTEST, "--collect-only", "tests/test_equations_limits.py"])
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "conftest")]:
        del sys.modules[name]


class Select:
    """Run the given tests only, one file after the other."""

    def __init__(self, tests: list[str]) -> None:
        files = {test.split("::")[0]: None for test in tests}
        self.rank = {test: (list(files).index(test.split("::")[0]), i) for i, test in enumerate(tests)}
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Deselect and sort."""
        items[:] = sorted((item for item in items if item.nodeid in self.rank), key=lambda item: self.rank[item.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Remember the test that failed."""
        if report.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        """Remember the file that could not be imported."""
        if report.failed:
            self.failed = report.nodeid


def put_in(path: str, function: str, source: str) -> None:
    """Replace the code of an imported function by that of the changed source."""
    module = importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    *classes, name = function.split(".")
    tree = ast.parse(source)
    scope: Any = module
    code = compile(tree, path, "exec", dont_inherit=True)
    body = tree.body
    for part in classes:
        scope = getattr(scope, part)
        code = _code(code, part)
        body = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == part).body
    node = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name][-1]
    code = _code(code, name)
    target = vars(scope)[name]
    target = getattr(target, "__func__", target)
    if code.co_freevars != target.__code__.co_freevars:  # super() has come or gone
        cells = dict(zip(target.__code__.co_freevars, target.__closure__ or (), strict=True))
        closure = tuple(cells[cell] for cell in code.co_freevars)
        setattr(scope, name, types.FunctionType(code, target.__globals__, name, target.__defaults__, closure))
        return
    _renew(target.__code__, code)
    target.__code__ = code
    if target.__defaults__ is not None:
        target.__defaults__ = tuple(_values(node.args.defaults, target.__defaults__, module))
    if target.__kwdefaults__:
        keywords = [arg.arg for arg, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if value]
        values = [value for value in node.args.kw_defaults if value]
        target.__kwdefaults__ = dict(
            zip(keywords, _values(values, [target.__kwdefaults__[key] for key in keywords], module), strict=True)
        )


def _renew(old: types.CodeType, new: types.CodeType) -> None:
    """Change the functions that were made by the old code while it was imported, such as the results of decorators."""
    changed = {
        id(one): other
        for one, other in zip(_made_by(old), _made_by(new), strict=False)
        if (one.co_name, one.co_freevars) == (other.co_name, other.co_freevars)
    }
    if changed:
        gc.unfreeze()
        for found in gc.get_objects():
            if type(found) is types.FunctionType and id(found.__code__) in changed:
                found.__code__ = changed[id(found.__code__)]


def _made_by(code: types.CodeType) -> list[types.CodeType]:
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return [one for one in inner if one.co_name == "<lambda>" or not one.co_name.startswith("<")]


def _code(parent: types.CodeType, name: str) -> types.CodeType:
    return [const for const in parent.co_consts if isinstance(const, types.CodeType) and const.co_name == name][-1]


def _values(nodes: list[ast.expr], old: Any, module: types.ModuleType) -> list[Any]:
    """Evaluate constants (mutmut changes no other defaults), and keep the rest."""
    return [ast.literal_eval(n) if isinstance(n, ast.Constant) else value for n, value in zip(nodes, old, strict=True)]


def in_child(work: Any, seconds: float, cpu_seconds: float) -> tuple[str, Any]:
    """Run a function in a fork; return how it ended (``done``, ``timeout``, ``crash``) and what it returned."""
    result = Path(tempfile.mkstemp(prefix="mutant-")[1])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds) + 1, int(cpu_seconds) + 5))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            log = os.open(os.environ["MUTANT_LOG"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            result.write_text(json.dumps(work()))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + seconds
    status = None
    try:
        while status is None and time.monotonic() < end:
            ended, found = os.waitpid(child, os.WNOHANG)
            status = found if ended else None
            time.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # also what the tests started
    if status is None:
        os.waitpid(child, 0)
        ending = "timeout"
    else:
        cpu = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        ending = "done" if status == 0 else "timeout" if cpu else "crash"
    text = result.read_text()
    result.unlink()
    return ending, json.loads(text) if ending == "done" and text else None


def run_tests(tests: list[str], mutant: dict[str, str] | None) -> str:
    """Return the test that failed, or an empty text."""
    import pytest

    if mutant:
        put_in(mutant["path"], mutant["function"], mutant["source"])
    select = Select(tests)
    code = pytest.main([*PYTEST, "-x", *dict.fromkeys(test.split("::")[0] for test in tests)], plugins=[select])
    if code in (0, 5) and not select.failed:
        return ""
    return select.failed or f"pytest ended with {code}"


def try_mutant(task: dict[str, Any]) -> dict[str, Any]:
    """Run the groups of tests until one fails."""
    mutant = task["mutant"]
    file = Path(mutant["path"])
    original, times = file.read_text(), file.stat()
    start = time.monotonic()
    # A modification time of its own, since Python's cache of compiled files looks at whole seconds.
    file.write_text(mutant["source"])
    os.utime(file, (task["number"] + 10**9,) * 2)
    try:
        for group in task["groups"]:
            ending, failed = in_child(
                lambda tests=group["tests"]: run_tests(tests, mutant),
                20 * group["seconds"] + 60,
                5 * group["seconds"] + 10,
            )
            if ending != "done" or failed:
                return {
                    "status": {"done": "killed", "crash": "killed"}.get(ending, ending),
                    "by": failed or ending,
                    "seconds": time.monotonic() - start,
                }
        return {"status": "survived" if task["groups"] else "no tests", "by": "", "seconds": time.monotonic() - start}
    finally:
        file.write_text(original)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def serve(tasks: int, answers: int) -> None:
    """Answer tasks until the input ends."""
    with os.fdopen(tasks) as lines, os.fdopen(answers, "w") as output:
        for line in lines:
            task = json.loads(line)
            if task["kind"] == "measure":
                from measure import measure

                ending, answer = in_child(lambda path=task["path"]: measure(path, PYTEST), 7200, 1800)
                if ending != "done":
                    sys.exit(
                        f"{task['path']} could not be measured:\n{Path(os.environ['MUTANT_LOG']).read_text()[-2000:]}"
                    )
            else:
                answer = try_mutant(task)
            output.write(json.dumps(answer) + "\n")
            output.flush()


def main(arguments: list[str]) -> None:
    """Fork a process for each tree: the arguments are the trees, then two pipes for each of them."""
    trees = arguments[: len(arguments) // 3]
    pipes = [int(fd) for fd in arguments[len(trees) :]]
    os.dup2(2, 1)
    preload()
    gc.collect()
    gc.freeze()  # otherwise each collection in a fork touches, and copies, the whole memory
    for number, tree in enumerate(trees):
        if os.fork() == 0:
            own = pipes[2 * number : 2 * number + 2]
            for fd in set(pipes) - set(own):
                os.close(fd)
            os.chdir(tree)
            sys.path[:] = [path.replace(trees[0], tree) for path in sys.path]
            os.environ |= {"PYTHONPATH": tree, "MUTANT_LOG": f"{tree}.log"}
            serve(*own)
            return
    for fd in pipes:
        os.close(fd)
    for _ in trees:
        os.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
