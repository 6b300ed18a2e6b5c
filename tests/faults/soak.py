"""Kills workers and slots at random during one study, for longer than a test may take.

``PYTHONPATH=.:tests/support python tests/faults/soak.py STORAGE [--kills 100] [--seed 0]``, where STORAGE is
``sqlite``, ``journal`` or ``postgres``. PostgreSQL is restarted in the middle. At the end the study must be intact: see
``check`` and ``remember`` in ``tests/support/chaos.py``.
"""

import argparse
import tempfile

from chaos import torment
from postgres import Server

#: Trials for each kill, so that the study lasts until the last kill.
TRIALS_PER_KILL = 8


def main():
    """Run a soak on a new storage."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("storage", choices=("sqlite", "journal", "postgres"))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    server = Server() if given.storage == "postgres" else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            places = {"sqlite": f"sqlite:///{folder}/s.db", "journal": f"{folder}/s.log"}
            torment(
                server.url if server is not None else places[given.storage],
                given.kills,
                n_trials=TRIALS_PER_KILL * given.kills,
                seed=given.seed,
                workers=1 if given.storage == "sqlite" else 3,
                slots=2 if given.storage == "sqlite" else 1,
                # A killed worker of a SQLite file has to start again before any result is stored.
                often=0.2 if given.storage == "sqlite" else 0.5,
                seconds=0.04 if given.storage == "sqlite" else 0.1,
                server=server,
                say=lambda line: print(line, flush=True),
            )
    finally:
        if server is not None:
            server.remove()


if __name__ == "__main__":
    main()
