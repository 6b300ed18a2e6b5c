"""Random kills during one study, and what must hold afterwards."""

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import fake_training
from outside import finish, reporting, start, trials
from processes import children, send, wait_until

from dropopt import cli
from dropopt.config import RunConfig
from dropopt.export import load
from dropopt.study.store.lease import lease_of
from dropopt.study.store.queries import best
from dropopt.study.store.trial_budget import budget_used

#: The options of the study. Its trials are short, and so is the time after which a dead worker is noticed.
OPTIONS = {"grace": 2, "pruner": "none"}
#: A study with fewer trials left before the last kill is extended by so many.
MARGIN, EXTENSION = 5, 20


def torment(
    storage,
    kills,
    *,
    n_trials,
    seed=0,
    workers=2,
    slots=1,
    often=0.5,
    seconds=0.1,
    pause=1.5,
    server=None,
    say=lambda line: None,
):
    """Kill random workers and slots of a study, ``kills`` times; then let the study end, and check it.

    Args:
        storage: The storage of the study.
        kills: The number of kills.
        n_trials: The number of trials; more if these end before the last kill.
        seed: Seed of the draws.
        workers: The number of workers that run at a time. A worker that was killed is replaced.
        slots: The number of slots of each.
        often: The probability that a worker is killed, and not one of its slots.
        seconds: The duration of an epoch before the last kill; a trial has eight.
        pause: The longest time between the first report of a trial and a kill, in seconds.
        server: A server that is restarted in the middle.
        say: Called with a line about the progress.

    Returns:
        The trials.
    """
    draw, seen, done, asked = random.Random(seed), {}, 0, n_trials
    with killed_at_the_end() as running:
        while done < kills:
            for process in [one for one in running if one.poll() is not None]:  # the study was complete
                running.remove(process)
                code, out = finish(process)
                assert code == 0, out
            while len(running) < workers:
                running.append(start(storage, slots, seconds=seconds, n_trials=n_trials, **OPTIONS))
            wait_until(
                lambda: training(storage, running) or any(process.poll() is not None for process in running), 300
            )
            time.sleep(draw.uniform(0, pause))
            remember(seen, trials(storage))
            if len(seen) > n_trials - MARGIN:  # on a slow machine there are more trials between two kills
                n_trials += EXTENSION
                continue
            if server is not None and done == kills // 2:
                server.stop()
                time.sleep(draw.uniform(0, 5))
                server.start()
            victim = draw.choice(running)
            if draw.random() < often:
                running.remove(victim)
                victim.kill()
                finish(victim)
            elif slots_of := children(victim.pid):
                send([draw.choice(slots_of)], signal.SIGKILL)
            done += 1
            say(f"{done} kills, {len(seen)} results")
        running += [
            start(storage, slots, seconds=0.01, n_trials=n_trials, **OPTIONS) for _ in range(workers - len(running))
        ]
        for process in running:
            code, out = finish(process, 600)
            assert code == 0, out
        # All workers may have begun before the study was extended.
        if n_trials > asked and budget_used(trials(storage)) < n_trials:
            code, out = finish(start(storage, slots, seconds=0.01, n_trials=n_trials, **OPTIONS), 600)
            assert code == 0, out
        found = trials(storage)
        check(found, n_trials)
        remember(seen, found)
        check_export(storage, best(found))
        say(f"whole: {len(found)} trials, of which {n_trials} count, after {done} kills")
        return found


@contextlib.contextmanager
def killed_at_the_end():
    """A list of processes; those that still run at the end of the block are killed."""
    running = []
    try:
        yield running
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.communicate()


def training(storage, running):
    """Whether one of the workers ``running`` has a trial that has reported.

    A session in which three slots are killed before the first one was ever ready ends with an error, as it should. A
    retry has the reports of its first attempt, and no lease yet when it starts.
    """
    workers = {process.pid for process in running}
    return any(lease_of(trial).get("process", {}).get("pid") in workers for trial in reporting(storage))


def remember(seen, found):
    """Check that no result has changed or vanished since it was stored, and add the new ones to ``seen``."""
    results = {trial.number: (trial.value, trial.params) for trial in found if trial.state.name == "COMPLETE"}
    assert seen.items() <= results.items() or not found  # the server is away
    seen.update(results)


def check(found, n_trials):
    """Check a finished study: the total, no orphan, no configuration twice, no gap, and values that can be repeated."""
    assert not {"RUNNING", "WAITING"} & {trial.state.name for trial in found}
    assert budget_used(found) == n_trials, [(t.number, t.state.name, t.user_attrs.get("reason")) for t in found]
    assert [trial.number for trial in found] == list(range(len(found)))
    complete = [trial for trial in found if trial.state.name == "COMPLETE"]
    assert len({str(sorted(trial.params.items())) for trial in complete}) == len(complete)
    replaced = [trial.user_attrs["previous"] for trial in found if "previous" in trial.user_attrs and not twin(trial)]
    assert len(set(replaced)) == len(replaced), [number for number in replaced if replaced.count(number) > 1]
    for trial in found:
        assert sorted(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))
    for trial in complete:
        run = RunConfig.parse(trial.user_attrs["config"])
        assert len(trial.intermediate_values) == run.train.epochs
        assert retrained(run) == trial.value


def check_export(storage, leader):
    """Check that training with the file that ``dropopt export`` writes gives the stored value of the best trial."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "best.yaml")
        with (
            mock.patch.object(sys, "argv", ["dropopt", "export", "--study", "fake", "-o", str(path)]),
            mock.patch.dict(os.environ, OPTUNA_STORAGE=str(storage)),
            contextlib.suppress(SystemExit),
        ):
            cli.main()
        exported = load(path)
    assert (exported.provenance["trial"], exported.provenance["value"]) == (leader.number, leader.value)
    assert exported.run.train.seed == leader.user_attrs["seed"]
    assert retrained(exported.run) == leader.value


def retrained(run):
    """The value of a configuration that is trained again."""
    os.environ.pop("FAKE_FAULT", None)
    result, *_ = fake_training.train(run, lambda report: None)
    return result.objective


def twin(trial):
    """Whether a trial was given back because another one replaces the same trial: two workers enqueued it at once."""
    return trial.user_attrs.get("message") == "another trial replaces the same one"
