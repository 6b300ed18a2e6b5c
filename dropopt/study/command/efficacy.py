"""``dropopt efficacy``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dropopt.study.command import options

if TYPE_CHECKING:
    import optuna

    from dropopt.study.show.efficacy import Report


def efficacy(
    study: options.StudyName = None,
    output: options.EvidenceOutput = None,
    storage: options.Storage = None,
    everything: options.Everything = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Report which dropout works, how much, where, when, and whether any does.

    Answers each question in words with 90% intervals, or says that the trials are too few. Prints the importance of
    each parameter and, if the study searched a blend, the effect of each method, where anything was found.
    """
    from dropopt.config import ConfigError
    from dropopt.study.command.output import check_writable, json_text
    from dropopt.study.search.prior import PRIOR_SUFFIX, prior_of
    from dropopt.study.show.console import busy
    from dropopt.study.show.efficacy import report_of
    from dropopt.study.store.keys import PRIOR
    from dropopt.study.store.opening import opened_study
    from dropopt.study.store.queries import count, no_result

    if output is not None:
        check_writable(output)
        if output.suffix != PRIOR_SUFFIX:
            raise ConfigError(
                f"{output}: the name must end in {PRIOR_SUFFIX}, from which --prior knows that it is a file"
            )
    with opened_study(storage, study) as found:
        counts = count(found.get_trials(deepcopy=False))
        if not counts.complete + counts.pruned:
            raise ConfigError(no_result(found))
        prior = found.user_attrs.get(PRIOR)
        with busy("analysing the trials", quiet=quiet):
            answer = _plain(found, prior) if as_json else report_of(found, prior=prior, everything=everything)
        if isinstance(answer, dict):
            print(json_text({"study": found.study_name, **answer}))
        else:
            _show(answer, found, quiet=quiet)
        if output is not None:
            try:
                prior_of(found).save(output)
            except OSError as error:
                raise ConfigError(f"{output} cannot be written: {error.strerror or error}") from None
            hint = f"{output}: start another study from it with --prior {shlex.quote(str(output))}"
            if not quiet:
                print(hint, file=sys.stderr if as_json else sys.stdout)


def _show(report: Report, study: optuna.Study, *, quiet: bool) -> None:
    """Print the report, what it leaves out, and the line that goes on where more trials may tell more."""
    from dropopt.study.show.console import make_console, say, say_command
    from dropopt.study.show.next_lines import next_lines
    from dropopt.study.show.snapshot import Snapshot

    console = make_console(quiet=quiet)
    console.print(report.text)
    if report.short:
        say(console, "\nTables in which nothing was found are left out; --all prints them. More trials may tell.")
    if report.short or report.missing:
        lines = dict(next_lines(Snapshot.of(study), "", missing=report.missing))
        if "go on" in lines:
            say_command(console, "go on", lines["go on"])


def _plain(study: optuna.Study, prior: Mapping[str, Any] | None) -> dict[str, Any]:
    """The effects as JSON, with those of the blend beside them if the study has one."""
    from dropopt.study.blend.learned import learned
    from dropopt.study.blend.names import NoBlendError
    from dropopt.study.effects.effects import study_effects

    effects = study_effects(study).as_dict()
    try:
        blend = learned(study, prior=prior).as_dict()
    except NoBlendError:
        blend = {}
    return {**blend, "effects": effects}
