"""What a study searches and what it found, in words: the same in the terminal, on the dashboard and in the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING, Any

from dropopt.facts import Facts
from dropopt.numbers import listed, quantity
from dropopt.study.show.formatting import format_accuracy, format_duration, format_parameters, format_percent
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.store.anchor_names import first_anchors
from dropopt.study.store.keys import ACCURACY, BASE, BEST_EPOCH, CONTINUES, PLAN, PORTFOLIO, SECONDS, SPACE

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

#: Names of parameters or places that are listed; the rest are counted.
LISTED = 6
#: Trials whose learning curves say whether a study trains for long enough: the best ones, and no fewer than ``FEW``.
LEADING = 5
FEW = 3
#: By how much two equal accuracies may differ, as one is a mean of float32 numbers.
ROUNDING = 1e-6
#: How far their values may fall in the last epoch, as a share (median of the trials), before the study is said to train
#: too briefly. On 600 digits the falls were 29%, 31%, 22%, 1% and 0% with 3, 6, 12, 25 and 50 epochs, and 33% and 2%
#: with 6 and 25 at a constant learning rate; on 300 digits 10% with 3 epochs, which had hardly learned; in the study of
#: digits that is shipped up to 3%, on emoji 0%. A single trial may fall by 18% by chance. A schedule that ends at rate
#: 0 makes losses flat at the end, also where more epochs would help. What falls then is their average over epochs, so a
#: study of many epochs is never said to be too short.
STILL_FALLS = 0.05

Line = tuple[str, str]


def searched(shot: Snapshot) -> list[Line]:
    """What ``shot`` searches on which data with which budget, as pairs of a word and a text."""
    names = sorted({name for trial in shot.trials for name in trial.params})
    lines = [("searches", searched_space(shot.attributes.get(SPACE), names))] if names else []
    base = shot.attributes.get(BASE)
    if isinstance(base, Mapping):
        lines += [*about(shot.facts, base), ("training", training(base["train"], shot.facts))]
    lines.append(("budget", budget(shot)))
    if first := begins(shot.attributes, shot.trials):
        lines.append(("begins", first))
    return lines


def searched_space(space: str | None, names: Iterable[str]) -> str:
    """The searched parameters and the name of their space."""
    names = list(names)
    where = f" of the space {space}" if space else ""
    return f"{quantity(len(names), 'parameter')}{where}: {listed(names, LISTED)}"


def about(facts: Facts | None, base: Mapping[str, Any]) -> list[Line]:
    """The data and the network of a study; only their names if the sizes are not known."""
    data, network = str(base["data"]["name"]), str(base["model"]["name"])
    if facts is None:
        return [("data", data), ("network", network)]
    return [("data", f"{data}: {data_words(facts)}"), ("network", f"{network}: {network_words(facts)}")]


def data_words(facts: Facts) -> str:
    """Images, their size, classes and the share of the largest class."""
    uses = {"train": "to train", "validation": "to validate", "test": "to test"}
    splits = ", ".join(f"{number:,} {uses.get(name, name)}" for name, number in facts.images.items())
    if facts.inputs:
        shapes = ", ".join(f"{name}: {' x '.join(map(str, shape))}" for name, shape in facts.inputs.items())
        samples, inputs = quantity(sum(facts.images.values()), "sample"), quantity(len(facts.inputs), "input")
        return f"{samples} ({splits}) of {inputs} ({shapes})" + _classes(facts, "samples")
    channels, *size = facts.shape
    shape = " x ".join(map(str, size))
    pixels = f"{shape} pixels" if len(size) == 2 else f"shape {shape}"
    what = "image" if len(size) == 2 else "sample"
    images = quantity(sum(facts.images.values()), what)
    return f"{images} ({splits}) of {pixels}, {quantity(channels, 'channel')}" + _classes(facts, f"{what}s")


def _classes(facts: Facts, what: str) -> str:
    if not facts.classes:
        return ""
    share = format_percent(facts.largest_share)
    return f"; {quantity(facts.classes, 'class')}, the largest with {share} of the training {what}"


def network_words(facts: Facts) -> str:
    """Parameters, places and the dropout that the network already contains."""
    both = facts.dropout_at_places if facts.places else 0  # where the engine drops nothing, nothing drops twice
    inside = (
        f"it already contains {quantity(facts.dropout_inside, 'dropout layer')}"
        + f", {both} of them at these places, where both drop" * bool(both)
        if facts.dropout_inside
        else "no dropout of its own"
    )
    places = f"dropout at {quantity(len(facts.places), 'place')} ({listed(facts.places, LISTED)})"
    return f"{quantity(facts.parameters, 'parameter')}; {places if facts.places else 'no dropout is added'}; {inside}"


def training(train: Mapping[str, Any], facts: Facts | None) -> str:
    """The recipe of training."""
    batches = "the loader's own batches" if facts and facts.own_batches else f"batches of {train['batch_size']}"
    return f"{quantity(train['epochs'], 'epoch')}, {train['optimizer']}, {batches}"


def budget(shot: Snapshot) -> str:
    """The planned trials and how they are chosen, or how many there are if the study has no plan."""
    plan = shot.attributes.get(PLAN)
    if not isinstance(plan, Mapping):
        return f"{shot.counts}"
    base = shot.attributes.get(BASE)
    epochs = f" of at most {quantity(base['train']['epochs'], 'epoch')}" if isinstance(base, Mapping) else ""
    how = f"sampler {plan['sampler']}, pruner {plan['pruner']}, seed {plan['seed']}"
    return f"{quantity(plan['n_trials'], 'trial')}{epochs}; {how}"


def begins(attributes: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> str:
    """The anchors and the configurations of a portfolio with which a study begins; empty without any."""
    anchors = first_anchors(trials)
    entries = {trial.user_attrs[PORTFOLIO] for trial in trials if PORTFOLIO in trial.user_attrs}
    parts = [quantity(len(anchors), "anchor")] if anchors else []
    if entries and isinstance(given := attributes.get(PORTFOLIO), Mapping):
        parts.append(
            f"{len(entries)} of the {quantity(len(given['entries']), 'configuration')} of portfolio {given['name']}"
        )
    return f"with {' and '.join(parts)}" if parts else ""


def found(shot: Snapshot) -> list[Line]:
    """The trials so far, the best one and how sure that is, as pairs of a word and a text."""
    lines = [("trials", f"{shot.counts}")]
    if shot.several:
        return [*lines, ("best", "the study has several objectives, so there is no single best trial")]
    if shot.leader is None:
        return [*lines, ("best", _no_best(shot))]
    lines += [("best", best(shot.leader, shot)), ("settings", format_parameters(shot.leader.params))]
    lines.append(("how sure", sure(shot)))
    lines += [("caution", text) for text in cautions(shot)]
    if shot.learned is not None:
        lines.append(("blend", shot.learned.efficacy.verdict))
    return lines


def _no_best(shot: Snapshot) -> str:
    """Why there is no best trial."""
    if shot.ranked:
        return "every complete trial has diverged"
    return "no complete trial has a finite value" if shot.counts.complete else "no trial is complete yet"


def best(trial: FrozenTrial, shot: Snapshot) -> str:
    """The best trial with its scores."""
    anchor = shot.anchors.get(trial.number)
    entry = trial.user_attrs.get(PORTFOLIO)
    name = f"trial {trial.number}" + (f", the anchor {anchor}" if anchor else f", {entry}" if entry else "")
    return f"{name}: {scores(trial, shot)}"


def scores(trial: FrozenTrial, shot: Snapshot) -> str:
    """The value of a trial, its metric, best epoch and duration, as far as they are known."""
    parts = [f"{shot.metric} {shot.scale.text(trial.value)}"] if trial.value is not None else []
    known = trial.user_attrs
    if isinstance(known.get(ACCURACY), float):
        parts.append(f"validation {shot.score} {format_accuracy(trial)}")
    if known.get(BEST_EPOCH) is not None:
        parts.append(f"best epoch {known[BEST_EPOCH]}")
    if isinstance(known.get(SECONDS), int | float):
        parts.append(f"{format_duration(known[SECONDS])} of training")
    return ", ".join(parts)


def sure(shot: Snapshot) -> str:
    """How sure it is that the best trial is better than no dropout and plain dropout."""
    if shot.comparison is not None:
        return shot.comparison.verdict
    return "not compared: the study has no completed anchors (no dropout and plain dropout at customary rates)"


def importances(shot: Snapshot) -> str:
    """Why the dashboard's own card of importances may contradict those of dropopt; empty if dropopt has none."""
    if shot.effects is None or not shot.effects.factors:
        return ""
    return (
        "'Hyperparameter Importance', the dashboard's own card (PED-ANOVA), may contradict 'Which parameter matters': "
        "it describes the trials as the sampler chose them, not the whole search space"
    )


def too_brief(shot: Snapshot) -> str:
    """That the values of the best trials still fall at their last epoch; empty if they do not."""
    base = shot.attributes.get(BASE)
    ends = [[value for _, value in sorted(trial.intermediate_values.items())[-2:]] for trial in shot.ranked[:LEADING]]
    falls = [1 - end[1] / end[0] for end in ends if len(end) == 2 and end[0] > 0 and all(map(isfinite, end))]
    if not isinstance(base, Mapping) or len(falls) < FEW or (fall := median(falls)) <= STILL_FALLS:
        return ""
    epochs = quantity(base["train"]["epochs"], "epoch")
    name, falls_by = shot.scale.name, f"falls by about {fall:.0%}"
    change = (
        f"rises at the last epoch (1 - {name} {falls_by})" if shot.scale.complement else f"{falls_by} at the last epoch"
    )
    return (
        f"the smoothed {name} of the best trials still {change}; dropout needs longer training than no dropout, so "
        f"what wins after {epochs} may not win after more"
    )


def learned_little(shot: Snapshot) -> str:
    """That no leading trial is better than always giving one answer; empty if one is, or none can be told."""
    scores = [trial.user_attrs.get(ACCURACY) for trial in shot.ranked[:LEADING]]
    known = [score for score in scores if isinstance(score, float)]
    if shot.facts is None or shot.score != "accuracy" or not known:
        return ""
    # Where one class is frequent, its share of the validation split decides, which is not quite that of the training
    # images. Studies of earlier versions know the latter only.
    share = shot.facts.guess or shot.facts.largest_share
    if not share or max(known) > share + ROUNDING:
        return ""
    answer = "answering the largest class" if shot.facts.classes else "giving the most frequent answer"
    return (
        f"no accuracy of the best trials is above {share:.0%}, that of always {answer}: if the networks have learned "
        "nothing, they say nothing of dropout; train for longer, and check data, network and learning rate"
    )


def cautions(shot: Snapshot) -> list[str]:
    """What makes the result of a study doubtful, in sentences: too little was learned, or epochs are too few."""
    return [text for text in (learned_little(shot), too_brief(shot)) if text]


def saved(shot: Snapshot) -> str:
    """What pruning saved, in epochs; empty if the study does not say how many epochs a trial has."""
    base = shot.attributes.get(BASE)
    if not isinstance(base, Mapping):
        return ""
    epochs = base["train"]["epochs"]
    complete = [trial for trial in shot.trials if trial.state.name == "COMPLETE"]
    # Pruned trials that were continued and trained to the end saved nothing.
    continued = {trial.user_attrs.get(CONTINUES) for trial in complete}
    pruned = [trial for trial in shot.trials if trial.state.name == "PRUNED" and trial.number not in continued]
    if not pruned:
        return ""
    ended = [*complete, *pruned]
    trained = sum(len(trial.intermediate_values) for trial in ended)
    planned = sum(len(t.intermediate_values) if t.state.name == "COMPLETE" else epochs for t in ended)
    share = format_percent(1 - trained / planned)
    were = [("was" if number == 1 else "were") for number in (len(pruned), trained)]
    return (
        f"{len(pruned)} of {quantity(len(ended), 'trial')} {were[0]} pruned: {quantity(trained, 'epoch')} {were[1]} "
        f"trained instead of {planned:,}, which saved {share}"
    )


def environment(made: Mapping[str, Any]) -> str:
    """Versions and machine of the session that created a study, from its provenance."""
    versions = made.get("versions")
    packages = [f"{name} {version}" for name, version in versions.items()] if isinstance(versions, Mapping) else []
    git = made.get("git")
    commit = ""
    if isinstance(git, Mapping):
        commit = f"commit {str(git.get('commit'))[:12]}{' with changes' * bool(git.get('dirty'))}"
    machine = f"{made['platform']}, {quantity(made.get('cpus') or 0, 'CPU')}" if "platform" in made else ""
    python = f"Python {made['python']}" if "python" in made else ""
    return ", ".join(part for part in (str(made.get("created", "")), python, *packages, machine, commit) if part)
