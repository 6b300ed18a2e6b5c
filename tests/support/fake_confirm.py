"""Confirms or compares with the fake training.

Also a program: ``python fake_confirm.py STORAGE '{"seeds": 3}'``. With ``arms`` it compares these, and the last line is
the result as JSON.
"""

import json
import os
import sys
from pathlib import Path

from fake_study import FAKE, make
from processes import launch
from rich.console import Console

from dropopt.study.command.errors import guard
from dropopt.study.session import comparing, confirming


def confirm(storage, **options):
    """Confirm the fake study. Returns the exit code and the result."""
    options = {"study": "fake", "top": 2, "seeds": 4, "n_jobs": 2} | options
    request = confirming.ConfirmRequest(storage=storage, train=FAKE, test=FAKE, **options)
    return confirming.confirm(request, Console(soft_wrap=True))


def start(storage, seconds, **options):
    """Confirm the fake study in a process; each epoch takes ``seconds``."""
    environment = os.environ | {"FAKE_SECONDS": str(seconds), "PYTHONUNBUFFERED": "1"}
    return launch(__file__, storage, json.dumps(options), env=environment)


def compare(storage, arms, study=(), **options):
    """Compare arms with the fake study's data and network. Returns the exit code and the result."""
    definition = make(**{"name": "cmp", "n_trials": 4, **dict(study)})
    options = {"seeds": 4, "top": 1, "n_jobs": 2} | options
    request = comparing.CompareRequest(
        arms, definition, Path(__file__), storage, targets=FAKE, train=FAKE, test=FAKE, **options
    )
    return comparing.compare(request, Console(soft_wrap=True))


def main(storage, **options):
    """Confirm or compare; returns the exit code."""
    if "arms" not in options:
        return confirm(storage, **options)[0]
    code, found = compare(storage, **options)
    if found is not None:
        print(json.dumps(found.plain()))
    return code


if __name__ == "__main__":
    guard(lambda: main(sys.argv[1], **json.loads(sys.argv[2])))
