"""``dropopt efficacy``."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import closing
from typing import Any

from dropopt.study.command.options import AsJson, EvidenceOutput, Storage, StudyName


def efficacy(
    study: StudyName = None, output: EvidenceOutput = None, storage: Storage = None, as_json: AsJson = False
) -> None:
    """Report which methods work and how certain the result is.

    Prints each method's effect and each pair's synergy with 90% intervals, and the preferred blend.
    """
    from dropopt.config import ConfigError
    from dropopt.study.blend.learned import learned
    from dropopt.study.command.output import check_writable
    from dropopt.study.search.prior import prior_of
    from dropopt.study.show.console import busy, make_console
    from dropopt.study.show.efficacy import efficacy_report
    from dropopt.study.store.keys import PRIOR
    from dropopt.study.store.opening import Opened
    from dropopt.study.store.queries import find_study
    from dropopt.study.store.url import resolve

    if output is not None:
        check_writable(output)
    with closing(Opened(resolve(storage), create=False)) as opened:
        found = find_study(opened.storage, study)
        prior = found.user_attrs.get(PRIOR)
        with busy("analysing the trials"):
            report: Any = learned(found, prior=prior).as_dict() if as_json else efficacy_report(found, prior=prior)
        if as_json:
            print(json.dumps({"study": found.study_name, **report}, indent=1))
        else:
            make_console().print(report)
        if output is not None:
            try:
                prior_of(found).save(output)
            except OSError as error:
                raise ConfigError(f"{output} cannot be written: {error.strerror or error}") from None
            hint = f"{output}: start another study from it with --prior {shlex.quote(str(output))}"
            print(hint, file=sys.stderr if as_json else sys.stdout)
