"""A report: what a study searched and found, as one HTML file that needs no network."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from dropopt.study.report.answers import answers
from dropopt.study.report.charts import Chart, charts
from dropopt.study.report.palette import VARIABLES
from dropopt.study.report.svg import inline
from dropopt.study.search.prior import is_file
from dropopt.study.show import words
from dropopt.study.show.confirmation import confirmed
from dropopt.study.show.effects_report import costs
from dropopt.study.show.formatting import (
    anchor_rows,
    capitalised,
    format_accuracy,
    format_duration,
    format_parameters,
    format_value,
)
from dropopt.study.show.next_lines import first_line, next_lines, with_options
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.show.summary import failures
from dropopt.study.store.keys import BEST_EPOCH, MADE_WITH, PLAN, SECONDS
from dropopt.study.store.url import DEFAULT_FILE

if TYPE_CHECKING:
    import optuna

#: Rows of the table of the best trials.
ROWS = 10
#: The element of a page that says which study it reports.
MARK = '<meta name="dropopt-study" content='


@dataclass(frozen=True)
class Report:
    """A report: its page and its charts."""

    html: str
    charts: list[Chart]


def build(study: optuna.Study, storage: str) -> Report:
    """Make the report of ``study``.

    Args:
        study: A study of dropopt, or of another program.
        storage: The option ``--storage`` as it is typed, with a space before it; or empty.

    Returns:
        The page, and the charts that it contains.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    shot = Snapshot.of(study)
    drawn = charts(shot)
    loader = PackageLoader("dropopt.study.report", package_path=".")
    template = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        "page.html.jinja"
    )
    pictures = {chart.name: (chart, Markup(inline(chart))) for chart in drawn}
    return Report(template.render(**_content(shot, storage), pictures=pictures, palette=VARIABLES), drawn)


def _content(shot: Snapshot, storage: str) -> dict[str, Any]:
    """The values of the template's variables."""
    made = shot.attributes.get(MADE_WITH)
    made = made if isinstance(made, dict) else {}  # a study of another program may have any attributes
    versions = made.get("versions", {})
    environment = {key: value for key, value in made.items() if value and key not in ("versions", "git")}
    return {
        "name": shot.name,
        "created": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "version": metadata.version("dropopt"),
        "verdict": _verdict(shot),
        "confirmed": [capitalised(text) for text in confirmed(shot.study)],
        "cautions": [capitalised(text) for text in words.cautions(shot)],
        "tiles": _tiles(shot),
        "searched": words.searched(shot),
        "settings": [(name, format_value(value)) for name, value in shot.leader.params.items()] if shot.leader else [],
        "best": f"{capitalised(words.best(shot.leader, shot))}." if shot.leader is not None else "",
        "anchors": anchor_rows(shot.comparison, shot.scale) if shot.comparison and shot.leader else [],
        "answers": answers(shot),
        "saved": words.saved(shot),
        "failures": failures(shot.trials),
        "trials": _trials(shot),
        "metric": shot.metric,
        "what": shot.scale.name,
        "costs": "" if shot.effects is None else costs(shot.effects),
        "score": shot.score,
        "environment": environment,
        "versions": versions,
        "git": made.get("git"),
        "lines": _lines(shot, storage),
    }


def _verdict(shot: Snapshot) -> str:
    """The most important sentence."""
    if shot.leader is None:
        return dict(words.found(shot))["best"]
    return f"{capitalised(words.sure(shot))}."


def _tiles(shot: Snapshot) -> list[tuple[str, str]]:
    """A few numbers to begin with: each with what it is."""
    tiles = []
    if shot.leader is not None:
        tiles.append((shot.scale.text(shot.leader.value), f"{shot.metric}, best trial"))
        if (accuracy := format_accuracy(shot.leader)) != "-":
            tiles.append((accuracy, f"validation {shot.score}, best trial"))
    trials = shot.counts.counted
    tiles.append((str(trials), "trial" if trials == 1 else "trials"))
    seconds = [trial.user_attrs.get(SECONDS) for trial in shot.trials]
    known = [one for one in seconds if isinstance(one, int | float)]
    if known:
        tiles.append((format_duration(sum(known)), "of training in all"))
    return tiles


def _trials(shot: Snapshot) -> list[tuple[str, ...]]:
    """A row for each of the best trials."""
    rows = []
    for trial in shot.ranked[:ROWS]:
        extra = (format_value(trial.user_attrs.get(key, "-")) for key in (BEST_EPOCH, SECONDS))
        scores = (shot.scale.text(trial.value), format_accuracy(trial))
        rows.append((str(trial.number), *scores, *extra, format_parameters(trial.params)))
    return rows


def _lines(shot: Snapshot, storage: str) -> list[tuple[str, str]]:
    """The commands that repeat the study and use its result."""
    lines = []
    plan = shot.attributes.get(PLAN)
    if isinstance(plan, dict) and (line := first_line(shot)):
        lines.append(("run the study again, in a new storage", _again(line, plan["n_trials"], storage)))
    wanted = {
        "export": "write the best configuration to a file",
        "train": f"train with it; reports the test {shot.score}",
    }
    wanted |= {
        "longer": "train for longer, in a study of its own",
        "look": "open the study in the dashboard",
        "learn": "which method works",
    }
    lines += [(wanted[what], line) for what, line in next_lines(shot, storage) if what in wanted]
    return lines


def _again(command: str, n_trials: int, storage: str) -> str:
    """The line that began the study, with its present number of trials and a storage that does not have it yet."""
    parts = shlex.split(command)
    if "--prior" in parts and not is_file(parts[place := parts.index("--prior") + 1]):
        name, at, where = parts[place].partition("@")
        parts[place] = f"{name}@{where if at else (shlex.split(storage) or [DEFAULT_FILE.as_posix()])[-1]}"
    return with_options(shlex.join(parts), {"--n-trials": n_trials, "--storage": "again.db"})
