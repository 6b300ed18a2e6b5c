"""The beginning of a study: its attributes in the storage, and the trials that are enqueued first."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

import optuna

from dropopt.study.define.space import Space
from dropopt.study.run.messages import Ready
from dropopt.study.search.anchors import MIN_TRIALS, enqueue_anchors
from dropopt.study.search.portfolio import Portfolio, enqueue_portfolio
from dropopt.study.search.prior import Prior
from dropopt.study.session.request import Request
from dropopt.study.store import keys
from dropopt.study.store.experiment import IDENTITY_PAUSE, IDENTITY_TRIES, space_of


def first_facts(
    request: Request, ready: Ready, prior: Prior | None, made_with: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the attributes with which a study is created.

    Args:
        request: The study.
        ready: What the first child says of the data and the network.
        prior: What another study has learned, if the study begins with it.
        made_with: The provenance.
        known: The attributes of the study, if it exists without trials.
    """
    space, portfolio = request.settings.space, request.portfolio
    facts = {keys.MADE_WITH: made_with, keys.DATA: ready.fingerprint, keys.CLASSES: ready.classes}
    facts[keys.QUEUE] = "pending"
    facts[keys.ID] = known.get(keys.ID, secrets.token_hex(4))
    facts[keys.SPACE_TEXT] = space.path.read_text(encoding="utf-8")
    if ready.complexity is not None:
        facts[keys.COMPLEXITY] = ready.complexity
    if prior is not None:
        facts[keys.PRIOR] = dict(prior.evidence)
    if portfolio is not None:
        facts[keys.PORTFOLIO] = portfolio.plain()
    if reasons := space.offered_sites(ready.sites):
        facts[keys.SITES] = [choice for choice, reason in reasons.items() if not reason]
    return facts


def sites_left_out(space: Space, ready: Ready) -> str | None:
    """Say which choices of ``sites`` the network does not offer; None if it offers all."""
    left_out = [reason for reason in space.offered_sites(ready.sites).values() if reason]
    return f"choices of sites that are not searched: {', '.join(left_out)}" if left_out else None


def enqueue_first_trials(study: optuna.Study, request: Request, prior: Prior | None, classes: int) -> None:
    """Enqueue the first trials of a new study: anchors, the configurations of the prior, and the portfolio."""
    space, base = space_of(study, request.settings.space), request.settings.base
    target = request.definition.n_trials
    if request.definition.anchors and target >= MIN_TRIALS:
        enqueue_anchors(study, space, base, classes)
    if prior is not None:
        prior.apply_to(study, space, classes)
    if keys.PORTFOLIO in study.user_attrs:
        portfolio = Portfolio.parse(study.user_attrs[keys.PORTFOLIO])
        enqueue_portfolio(study, portfolio, space, base, classes, target)
    study.set_user_attr(keys.QUEUE, "done")


def is_queue_lost(study: optuna.Study, *, exclusive: bool) -> bool:
    """Whether the process that created the study has died before it enqueued all of the first trials.

    Args:
        study: The study.
        exclusive: Whether no other process can be at work in the storage.
    """
    for _ in range(1 if exclusive else IDENTITY_TRIES):
        if study.user_attrs.get(keys.QUEUE) != "pending":
            return False
        time.sleep(IDENTITY_PAUSE)
    return True
