"""Kills workers at random during one study, for longer than a test may take.

``PYTHONPATH=.:tests/support python tests/faults/soak.py STORAGE KILLS [SEED]``, where STORAGE is ``sqlite``,
``journal`` or ``postgres``. PostgreSQL is restarted in the middle. At the end the study must be intact. It has the
requested number of trials, no trial is running or exists twice, the reports have no gap, and no complete trial has
changed.
"""

import random
import sys
import tempfile
import time

from outside import check_whole, finish, reporting, start, trials, wait_until
from postgres import Server

#: Trials for each kill, so that the study lasts until the last kill.
TRIALS_PER_KILL = 2


def soak(storage, kills, seed=0, workers=3, server=None):
    """Kill random workers of a study and start others, ``kills`` times; then let the study end and check it."""
    draw, options = random.Random(seed), {"n_trials": kills * TRIALS_PER_KILL, "grace": 2, "pruner": "none"}
    running, seen, done = [], {}, 0
    while True:
        while len(running) < workers:
            running.append(start(storage, seconds=0.1, **options))
        wait_until(lambda: reporting(storage) or any(process.poll() is not None for process in running))
        time.sleep(draw.uniform(0, 3))
        for trial in trials(storage):
            if trial.state.name == "COMPLETE":
                assert seen.setdefault(trial.number, trial.value) == trial.value
        if server is not None and done == kills // 2:
            server.stop()
            time.sleep(draw.uniform(0, 5))
            server.start()
        if done == kills or any(process.poll() is not None for process in running):
            break
        victim = running.pop(draw.randrange(len(running)))
        victim.kill()
        finish(victim)
        done += 1
        print(f"{done} kills, {len(seen)} trials complete", flush=True)
    for process in running:
        code, out = finish(process, 600)
        assert code == 0, out
    found = trials(storage)
    check_whole(found, options["n_trials"])
    values = {trial.number: trial.value for trial in found}
    assert all(values[number] == value for number, value in seen.items())
    print(f"whole: {len(found)} trials, {options['n_trials']} of them complete, {done} kills")


def main():
    """Run a soak on a new storage."""
    kind, kills, *seed = sys.argv[1:]
    server = Server() if kind == "postgres" else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            places = {"sqlite": f"sqlite:///{folder}/s.db", "journal": f"{folder}/s.log"}
            storage = server.url if server is not None else places[kind]
            workers = 1 if kind == "sqlite" else 3
            soak(storage, int(kills), *map(int, seed), workers=workers, server=server)
    finally:
        if server is not None:
            server.remove()


if __name__ == "__main__":
    main()
