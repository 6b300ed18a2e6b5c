"""What a worker spends on a trial besides training it: processor time of ask, 30 reports, tell and lease.

    python -m tests.benchmarks.overhead            all storages, 1 to 8 workers, 100 to 10,000 finished trials
    python -m tests.benchmarks.overhead --quick    fewer repetitions, up to 1,000 trials

No trial trains. The study is filled with finished trials first. A SQLite file has one writing process, so that several
"workers" are trials that run at the same time in one process; on the other storages each is a process. PostgreSQL is
started by the benchmark itself. Times are processor time of the workers, without that of the database server.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import optuna

from dropopt.config import RunConfig
from dropopt.study.define.space import Space
from dropopt.study.search.pruners import make_pruner
from dropopt.study.search.samplers import make_sampler
from dropopt.study.store.history import History
from dropopt.study.store.lease import WorkerIdentity
from dropopt.study.store.opening import Opened
from dropopt.study.store.patient import Patience
from dropopt.study.store.search_ledger import SearchLedger

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

EPOCHS = 30
#: Seconds between two renewals of a lease, and of a trial.
BEAT, TRIAL = 5.0, 10.0
STORAGES = ("sqlite", "journal", "postgres")
#: What a trial stores about its epochs if it is among the best.
HISTORY = History(tuple(range(1, EPOCHS + 1)), rates={f"norm{place}": (0.1,) * EPOCHS for place in range(1, 5)})


@contextlib.contextmanager
def opened_ledger(url: str, space_name: str, sampler: str, seed: int) -> Iterator[SearchLedger]:
    """A worker's ledger of the study."""
    space = Space.load(space_name)
    base = space.base(RunConfig())
    with contextlib.closing(Opened(url, patience=Patience())) as opened:
        study = optuna.create_study(
            study_name="overhead",
            storage=opened.storage,
            load_if_exists=True,
            sampler=make_sampler(sampler, space, seed),
            pruner=make_pruner("median", EPOCHS),
        )
        yield SearchLedger(study, space, base, 0, 10, WorkerIdentity(exclusive=opened.exclusive))


def fill(url: str, space_name: str, count: int) -> None:
    """Add finished trials with all that a worker stores, until there are ``count``."""
    space, draw = Space.load(space_name), random.Random(0)
    base = space.base(RunConfig())
    source = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with opened_ledger(url, space_name, "random", 0) as ledger:
        missing = count - len(ledger.study.get_trials(deepcopy=False))
        made = []
        for number in range(missing):
            trial = source.ask()
            run = space.suggest(trial, 10, base)
            facts = {"worker": "w", "lease": ledger._worker.lease(1), "config": run.model_dump(mode="json"), "seed": 1}
            value = draw.uniform(0.3, 2.0)
            made.append(
                optuna.trial.create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    value=value,
                    user_attrs=facts | {"val_accuracy": 0.5, "best_val_loss": value, "best_epoch": 30, "seconds": 1.0},
                    intermediate_values={epoch: value + draw.random() / epoch for epoch in range(1, EPOCHS + 1)},
                )
            )
            if len(made) == 500 or number == missing - 1:
                ledger._storage.create_new_trials(ledger.study._study_id, made)
                made = []


def timed(times: list[float], call: Callable[[], Any]) -> Any:
    began = time.process_time()
    found = call()
    times.append(time.process_time() - began)
    return found


def work(job: tuple[str, str, str, int, int, int]) -> dict[str, list[float]]:
    """Run ``repeats`` times ``together`` trials, and return the seconds of each call."""
    url, space_name, sampler, seed, repeats, together = job
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    times: dict[str, list[float]] = {name: [] for name in ("ask", "report", "tell", "lease")}
    draw = random.Random(seed)
    with opened_ledger(url, space_name, sampler, seed) as ledger:
        ledger.tend()
        for repeat in range(repeats + 1):
            if repeat == 1:  # the first trial loads the study and the modules
                times = {name: [] for name in times}
            running = []
            for _ in range(together):
                trial, _ = timed(times["ask"], lambda: ledger.ask(10**9))
                running.append((trial, draw.uniform(0.3, 0.4)))
            for epoch in range(1, EPOCHS + 1):
                for trial, value in running:
                    timed(times["report"], partial(ledger.report, trial, value, epoch=epoch, epochs=EPOCHS))
                if epoch % int(BEAT * EPOCHS / TRIAL) == 0:
                    ledger._tended = -BEAT * 2
                    timed(times["lease"], ledger.tend)
            facts: dict[str, Any] = {"accuracy": 0.5, "best_loss": 0.4, "best_epoch": 3, "seconds": 1.0}
            facts["history"] = HISTORY
            for trial, value in running:
                timed(times["tell"], partial(ledger.complete, trial, value, **facts))
    return times


def measure(url: str, kind: str, options: argparse.Namespace, workers: int) -> dict[str, float]:
    """Return the mean milliseconds of each call, per trial or report, and of a heartbeat per trial."""
    if kind == "sqlite":
        jobs = [(url, options.space, options.sampler, 1, options.repeats, workers)]
    else:
        jobs = [(url, options.space, options.sampler, seed, options.repeats, 1) for seed in range(workers)]
    with multiprocessing.get_context("spawn").Pool(len(jobs)) as pool:
        found = pool.map(work, jobs, chunksize=1)
    means = {name: 1000 * statistics.mean(chain.from_iterable(times[name] for times in found)) for name in found[0]}
    if kind == "sqlite":
        means["lease"] /= workers
    return means


def main() -> None:
    """Measure and print."""
    from tests.benchmarks.engine import print_table, processor  # imports torch, which the workers do not need

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--storages", nargs="+", choices=STORAGES, default=STORAGES)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--trials", nargs="+", type=int, default=[100, 1000, 10_000])
    parser.add_argument("--space", default="compact")
    parser.add_argument("--sampler", default="auto")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="1 and 4 workers, 100 and 1,000 trials, 2 repetitions")
    options = parser.parse_args()
    if options.quick:
        options.workers, options.trials, options.repeats = [1, 4], [100, 1000], 2
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{processor()}; Optuna {optuna.__version__}")
    rows = []
    for kind in options.storages:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            url = {"sqlite": f"sqlite:///{folder}/s.db", "journal": f"{folder}/s.log"}.get(kind, "")
            if kind == "postgres":
                from postgres import Server

                server = Server()
                stack.callback(server.remove)
                url = server.url
            for count in sorted(options.trials):
                fill(url, options.space, count)
                for workers in options.workers:
                    means = measure(url, kind, options, workers)
                    total = means["ask"] + EPOCHS * means["report"] + means["tell"] + TRIAL / BEAT * means["lease"]
                    cells = [f"{means[name]:.2f}" for name in ("ask", "report", "tell", "lease")]
                    rows.append([kind, f"{count:,}", str(workers), *cells, f"{total / 1000 / TRIAL:.2%}"])
                    print(*rows[-1], flush=True)
    heads = [
        "storage",
        "finished trials",
        "workers",
        "ask, ms",
        "report, ms",
        "tell, ms",
        "lease, ms",
        "of a 10 s trial",
    ]
    print_table(heads, rows)


if __name__ == "__main__":
    main()
