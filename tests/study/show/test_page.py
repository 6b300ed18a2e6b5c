"""The page of a study in optuna-dashboard: its note, its figures, its artifacts, and the dashboard that shows them."""

import json
import re

import optuna
import pytest
from browser import needs_browser, open_page
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import create_trial
from safetensors.torch import load_file
from serving import serving
from shown_study import shown_study
from torch import nn

import dropopt
from dropopt.config import RunConfig
from dropopt.study.effects.effects import study_effects
from dropopt.study.effects.questions import _SETTINGS
from dropopt.study.run.weights import write_weights
from dropopt.study.show import live, page, series, words
from dropopt.study.show.arrangement import STYLE
from dropopt.study.show.artifacts import artifact_folder, save_artifacts
from dropopt.study.show.card import CHARACTERS
from dropopt.study.show.note import MARK
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.store.errors import StorageError
from dropopt.study.store.experiment import name_of_files
from dropopt.study.store.weights import path_of


def written(study):
    """All attributes of a study and its trials, as text."""
    storage = study._storage
    return repr([study.user_attrs, storage.get_study_system_attrs(study._study_id), study.trials])


def test_the_note_says_what_was_searched_and_found():
    """Data, network, budget, the best trial, how sure that is, and the lines to type next."""
    text = page.build(shown_study(12), " --storage a.db").note
    for part in (
        "100 images (80 to train, 10 to validate, 10 to test) of 32 x 48 pixels, 3 channels",
        "4 classes, the largest with 45% of the training images",
        "123,456 parameters; dropout at 2 places (conv1, conv2); it already contains 1 dropout layer",
        "12 trials of at most 6 epochs; sampler auto, pruner median, seed 0",
        "trial 11: value 0.1556, validation accuracy 0.9777",
        "below that of the best anchor",
        "dropopt export --study photos --storage a.db -o best-photos.yaml",
        "dropopt run digits --seed 1 --n-trials 24",
        "3 of 11 trials were pruned: 54 epochs were trained instead of 66, which saved 18.2%",
    ):
        assert part in text, part


@pytest.mark.parametrize(("count", "blend"), [(3, True), (3, False), (30, False), (300, True)])
def test_every_study_has_figures_and_they_are_small(count, blend):
    """Also one without a blend. Their identifiers are fixed and in order, and their size hardly grows."""
    figures = page.build(shown_study(count, blend=blend)).figures
    expected = ["dropopt-study", "dropopt-curves", "dropopt-rates"]
    expected += ["dropopt-importance", "dropopt-costs"] * (count > 3) + ["dropopt-cost"]
    expected += ["dropopt-effects", "dropopt-blend"] * (blend and count > 3) + ["dropopt-weights"] * blend
    assert list(figures) == expected
    assert sum(map(len, figures.values())) < 60_000
    rates = json.loads(figures["dropopt-rates"])["data"][0]
    assert rates["y"] == ["conv1", "conv2"]
    assert rates["z"][1] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


@pytest.mark.parametrize("count", [3, 30])
def test_the_page_says_why_the_importances_of_the_dashboard_differ(count):
    """In the note and on the first card, where dropopt has importances of its own."""
    made = page.build(shown_study(count))
    for text in (made.note, made.figures["dropopt-study"]):
        assert ("(PED-ANOVA), may contradict" in text) == (count > 3)


@pytest.mark.parametrize("count", [3, 30])
def test_the_first_card_answers_the_questions(count):
    """It is read without a click, unlike the note. Questions with the same answer share a line."""
    study = shown_study(count)
    words, texts = json.loads(page.build(study).figures["dropopt-study"])["data"][0]["cells"]["values"]
    said = dict(zip(words, texts, strict=True))
    asked = [word for word in said if "how much" in word or "whether at all" in word]
    if count == 3:
        assert asked == ["<b>which dropout, how much, whether at all</b>"]
        assert said[asked[0]].startswith("Too few trials to say: 3, and no claim is made with fewer than ")
    else:
        assert asked == ["<b>how much</b>", "<b>whether at all</b>"]
        answers = study_effects(study).answers
        assert [said[word] for word in asked] == [answers[1].text, answers[4].text]
        assert "90%: " in said["<b>whether at all</b>"]


def test_the_first_card_shows_the_longest_answer_whole():
    """In the space of the paper, twelve settings say when to drop; each may need many more trials."""
    needed = "(more than 1000 more trials would be needed)"
    answer = f"No effect was found of {', '.join(f'{name} {needed}' for name in [*_SETTINGS['when'], 'blend, early'])}."
    (_, (text, cut)) = page.card("mine", [("when", answer), ("settings", "x" * 9999)]).data[0].cells.values
    assert (text, len(cut)) == (answer, CHARACTERS)


def test_points_that_are_left_out_shift_no_others(monkeypatch):
    """Of long trainings, only some epochs are drawn, the first and the last among them, each with its own value."""
    monkeypatch.setattr("shown_study.EPOCHS", 100)
    study = shown_study(4)
    shot = Snapshot.of(study)
    table, curve = series.rates(shot), series.curves(shot)[-1]
    for epochs in (table.epochs, curve.epochs):
        assert (epochs[0], epochs[-1], len(epochs)) == (1, 100, series.CURVE_POINTS)
    assert table.rows == tuple(tuple(0.05 * row * epoch for epoch in table.epochs) for row in (1, 2))
    reports = study.best_trial.intermediate_values
    assert curve.values == pytest.approx([reports[epoch] for epoch in curve.epochs], rel=1e-4)


def test_a_pruned_trial_that_was_continued_saved_nothing():
    """The trial that continues it has its epochs too, and counts in its place."""
    study = shown_study(12)
    reports = dict.fromkeys(range(1, 7), 0.5)
    study.add_trial(create_trial(value=0.5, intermediate_values=reports, user_attrs={"continues": 3}))
    text = words.saved(Snapshot.of(study))
    assert text == "2 of 11 trials were pruned: 58 epochs were trained instead of 66, which saved 12.1%"


def test_studies_of_other_programs_have_a_page():
    """Several objectives, a maximised study, one without finite values, one whose trials have all diverged."""
    several = optuna.create_study(directions=["minimize", "maximize"])
    several.add_trial(create_trial(values=[1.0, 2.0]))
    assert "no single best trial" in page.build(several).note
    highest = optuna.create_study(direction="maximize")
    for value in (0.2, 0.9, 0.5):
        highest.add_trial(create_trial(value=value))
    assert "trial 1: value 0.9000" in page.build(highest).note
    empty = optuna.create_study()
    assert "no trial is complete yet" in page.build(empty).note
    empty.add_trial(create_trial(value=float("inf")))
    assert "no complete trial has a finite value" in page.build(empty).note
    lost = optuna.create_study()
    lost.set_user_attr("classes", 10)
    lost.add_trial(create_trial(value=1e6))
    text = page.build(lost).note
    assert "every complete trial has diverged" in text
    assert "dropopt export" not in text


@pytest.fixture
def _without_effects(monkeypatch):
    """Pages are made without effects, whose estimation takes long."""
    for name in ("effects", "learned"):
        monkeypatch.setattr(Snapshot, name, None)


@pytest.mark.usefixtures("_without_effects")
def test_refresh_keeps_a_person_s_text_and_writes_only_changes():
    """What a person writes above the mark stays, and an unchanged page is not written again."""
    from optuna_dashboard import get_note, save_note

    study = shown_study(4)
    page.refresh(study)
    first = written(study)
    page.refresh(study)
    assert written(study) == first
    save_note(study, "My own remark.\n\n" + get_note(study))
    study.add_trial(create_trial(value=0.01))
    page.refresh(study)
    assert get_note(study).startswith(f"My own remark.\n\n{MARK}")
    assert get_note(study).count(MARK) == 1
    assert "trial 4: value 0.0100" in get_note(study)


@pytest.mark.usefixtures("_without_effects")
def test_the_dashboard_shows_a_fresh_page_and_writes_nothing():
    """The reply has the note, the figures in order and readable attributes; the storage stays as it was."""
    study = shown_study(12)
    before = written(study)
    with serving(study._storage) as request:
        status, _, headers = request("GET", "/")
        assert (status, headers["Location"]) == (302, "/dashboard/studies/0")
        reply = json.loads(request("GET", "/api/studies/0")[1])
        assert request("GET", "/api/studies/7")[0] == 404
    assert MARK in reply["note"]["body"]
    assert [one["id"] for one in reply["plotly_graph_objects"]][:3] == [
        "dropopt-study",
        "dropopt-curves",
        "dropopt-rates",
    ]
    assert [one["key"] for one in reply["trials"][0]["user_attrs"]][:2] == ["anchor", "val_accuracy"]
    shown = {one["key"] for one in reply["user_attrs"]} | {one["key"] for one in reply["union_user_attrs"]}
    assert not shown & {"config", "lease", "worker", "base", "plan", "facts", "made_with"}
    failed = {one["key"]: one["value"] for one in reply["trials"][10]["user_attrs"]}
    assert (failed["reason"], failed["message"]) == ("Broken", "it <b>broke</b>")
    assert len(reply["trials"][11]["user_attrs"][0]["value"]) < 10
    assert written(study) == before


def test_the_dashboard_calls_the_metric_by_its_name():
    """The attribute val_accuracy of a study of another metric; the stored one keeps its name."""
    task = {"metric": "mine:dice", "objective": "metric"}
    study = shown_study(4, base=RunConfig.parse({"task": task}).model_dump(mode="json"))
    with serving(study._storage) as request:
        reply = json.loads(request("GET", "/api/studies/0")[1])
        html = request("GET", "/dashboard/studies/0")[1]
    assert STYLE in html.partition("</head>")[0]
    assert "val_dice" in {one["key"] for one in reply["union_user_attrs"]}
    assert reply["trials"][3]["user_attrs"][0]["key"] == "val_dice"
    assert "val_accuracy" in study.trials[3].user_attrs


@pytest.mark.usefixtures("_without_effects")
def test_the_best_trials_have_files_to_download(tmp_path):
    """Configuration and curves of the best three; former ones are removed; each download is an attachment."""
    url = f"sqlite:///{tmp_path}/a.db"
    folder = artifact_folder(url)
    study = shown_study(12, url)
    save_artifacts(study, folder, "")
    best = [
        trial.number for trial in sorted(study.trials, key=lambda t: t.value or 99) if trial.state.name == "COMPLETE"
    ][:3]
    with serving(study._storage, folder=folder) as request:
        known = json.loads(request("GET", "/api/studies/1")[1])["artifacts"]
        names = {one["filename"]: one["artifact_id"] for one in known}
        assert names.keys() == {f"best-trial-{number}{end}" for number in best for end in (".yaml", "-curves.csv")}
        _, text, headers = request("GET", f"/artifacts/1/{names['best-trial-11.yaml']}")
        _, curves, _ = request("GET", f"/artifacts/1/{names['best-trial-11-curves.csv']}")
    assert headers["Content-Disposition"] == "attachment"
    (tmp_path / "best.yaml").write_text(text)
    assert dropopt.load(tmp_path / "best.yaml").provenance["trial"] == 11
    assert curves.splitlines()[0] == "epoch,smoothed_loss,val_loss,val_accuracy,train_loss,rate:conv1,rate:conv2"
    assert len(curves.splitlines()) == 7
    study.add_trial(create_trial(value=0.01, user_attrs=study.trials[0].user_attrs))
    save_artifacts(study, folder, "")
    assert len(list(folder.iterdir())) == 6
    assert artifact_folder("postgresql://host/db") is None
    study._storage.remove_session()


def test_the_weights_of_the_best_trials_are_files_too(tmp_path):
    """What the trainers left is moved; the files of other finished trials are removed, those of running ones stay.

    So do those of a study with the same name in another storage, which uses the same folder.
    """
    folder = artifact_folder("postgresql://host/db", tmp_path / "shared")
    study = shown_study(12)
    study.set_user_attr("id", "own")
    files = {number: path_of(folder, name_of_files(study), number) for number in (0, 11, 12)}
    files["other"] = path_of(folder, "photos other", 11)
    for file in files.values():
        write_weights(nn.Linear(2, 3), file)
    save_artifacts(study, folder, "")
    known = {one.filename: one.artifact_id for one in get_all_artifact_meta(study)}
    found = load_file(folder / known["best-trial-11-weights.safetensors"])
    assert {name: tuple(value.shape) for name, value in found.items()} == {"weight": (3, 2), "bias": (3,)}
    assert [name for name, file in files.items() if file.exists()] == [12, "other"]
    save_artifacts(study, folder, "")
    assert len(list(folder.iterdir())) == 9


def test_a_live_page_rests_and_never_ends_a_study(monkeypatch):
    """It waits after an update, stops after an error, and passes on an error of the storage."""
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    calls = []
    shown = live.LivePage(lambda: calls.append(now[0]))
    for now[0] in (1.0, 31.0, 40.0, 61.5, 62.0):
        shown.update()
    assert calls == [31.0, 61.5]

    def fail(error):
        raise error

    broken = live.LivePage(lambda: fail(ValueError("a bug")))
    now[0] = 200.0
    broken.update()
    lost = live.LivePage(lambda: fail(StorageError("gone")))
    now[0] = 300.0
    broken.update()
    with pytest.raises(StorageError):
        lost.update()


@needs_browser
def test_a_browser_shows_the_page_at_once(tmp_path):
    """The first page of the dashboard has the words, all figures and the files, without a click."""
    url = f"sqlite:///{tmp_path}/a.db"
    study = shown_study(12, url)
    save_artifacts(study, artifact_folder(url), "")
    with serving(study._storage, folder=artifact_folder(url)) as request:
        dom, picture = open_page(f"http://{request.address}/", tmp_path, "dashboard")
    for part in ("Study photos", "100 images", "Learning curves", "Drop rate by layer and epoch"):
        assert part in dom, part
    for name in ("curves", "rates", "cost", "weights"):
        assert f'id="user-defined-plot:dropopt-{name}"' in dom
    assert "best-trial-11.yaml" in dom
    assert "dropopt export --study photos" in dom
    assert picture.stat().st_size > 50_000
    size = re.search(r'plot:dropopt-study".*?svg-container" style="[^"]*width: ([\d.]+)px; height: (\d+)px', dom)
    assert float(size[1]) > 1000, "the card in words has the full width"
    assert int(size[2]) == 880
    study._storage.remove_session()
