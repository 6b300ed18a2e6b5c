"""A model file: it predicts what the training measured, its rates travel in it, and reading it runs no code."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.stats import entropy
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import dropopt
from dropopt.config import ConfigError, DataConfig, RunConfig
from dropopt.standalone.describe import describe, refuse_other_samples
from dropopt.standalone.file import read_model, write_model
from dropopt.standalone.sampling import Dropper, Sampled
from dropopt.study.after.retrain import retrain, save_model
from dropopt.training import load_data
from dropopt.training.calibration import calibration_error, temperature_of
from dropopt.training.rates import rates_of

TRAIN = {"batch_size": 32, "lr": 0.1, "device": "cpu", "channels_last": True, "amp": "bf16"}


def trained(path, facts=None, epochs=1, **settings):
    run = RunConfig.parse({"data": {"subset": 200}, "train": {**TRAIN, "epochs": epochs}, **settings})
    done = retrain(run, facts or {}, threads=1, on_notice=print, on_epoch=lambda report: None)
    save_model(done, facts or {}, path)
    return done


@pytest.fixture(name="digits", scope="module")
def _digits(tmp_path_factory):
    """A model file of digits, and the training that wrote it."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    engine = {"r0": 0.3, "pattern": "channel", "allocation": "importance"}
    return path, trained(path, {"study": "a", "trial": 7}, epochs=3, engine=engine)


def source_units(data, split):
    """The images of ``split`` before normalisation."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    return (split.images * std + mean).round()


def test_it_predicts_what_the_training_measured(digits):
    """Accuracy and loss on the validation and test images are those that the training reported, also in bf16."""
    path, done = digits
    model = dropopt.load_model(path, device="cpu")
    for split, estimate in ((done.data.validation, done.validation), (done.data.test, done.test)):
        images = source_units(done.data, split)
        assert torch.equal(model.prepare(images), split.images)
        predictions = model.predict(images)
        right = [int(one.label) == label for one, label in zip(predictions, split.labels.tolist(), strict=True)]
        assert sum(right) / len(right) == estimate.accuracy
        assert F.cross_entropy(model.logits(split.images), split.labels).item() == pytest.approx(
            estimate.loss, rel=1e-6
        )
        assert all(one.probability == max(one.probabilities.values()) for one in predictions)
        expected = torch.softmax(model.logits(split.images).double() / model.card.calibration.temperature, 1)
        assert torch.tensor([list(one.probabilities.values()) for one in predictions]).sub(expected).abs().max() < 1e-6
        assert [one.entropy for one in predictions] == pytest.approx(entropy(expected.numpy(), axis=1), rel=1e-6)
    assert load_file(path).keys() == done.weights.keys(), "other programs can load the weights"


def test_the_card_says_what_it_is(digits):
    path, done = digits
    card = read_model(path).card
    assert card.data["sha256"] == done.data.fingerprint
    assert card.data["images"] == {name: len(split) for name, split in done.data.splits().items()}
    assert card.run == done.run
    low, high = card.metrics["test"].interval
    assert low < card.metrics["test"].accuracy == done.test.accuracy < high
    assert card.metrics["test"].n == done.test.n
    assert card.provenance == {"study": "a", "trial": 7}
    network, earlier = dropopt.load_model(path, device="cpu").network, replace(done.result, best_epoch=2)
    assert describe(network, done.data, done.run, earlier, scores={}, provenance={}).best_epoch == 2
    text = "\n".join(card.lines())
    for part in ("images 1 x 8 x 8", "95% interval", "MIT", "CC BY 4.0", f"torch {torch.__version__.split('+')[0]}"):
        assert part in text


def test_confidence_is_calibrated_on_the_validation_split(digits):
    """The temperature is fitted there; the stored calibration errors are those of the probabilities on each split."""
    path, done = digits
    model = dropopt.load_model(path, device="cpu")
    found, validation = model.card.calibration, done.data.validation
    fitted = temperature_of(model.logits(validation.images), validation.labels)
    assert found.temperature == pytest.approx(fitted, rel=1e-6)
    assert abs(fitted - temperature_of(model.logits(done.data.test.images), done.data.test.labels)) > 0.01
    for name, split in (("validation", validation), ("test", done.data.test)):
        logits = model.logits(split.images)
        for temperature, stored in ((fitted, found.ece), (1.0, found.ece_raw)):
            error = calibration_error(torch.softmax(logits / temperature, 1), split.labels)
            assert error == pytest.approx(stored[name], abs=1e-6)
    sampled = model.sample(validation.images, found.samples).mean
    assert calibration_error(sampled, validation.labels) == pytest.approx(found.ece_sampled, abs=1e-6)


def test_an_empty_image_gets_a_note(digits):
    path, done = digits
    model = dropopt.load_model(path, device="cpu")
    flat = torch.tensor([0.0, 9.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    images = torch.cat([flat, source_units(done.data, done.data.test)[:3]])
    notes = [one.note for one in model.predict(images)]
    assert [bool(note) for note in notes] == [True, True, False, False, False]
    assert notes[0].startswith("hardly any contrast (0 of the training's)")
    images[3, 0, 0, 0] = torch.nan
    notes = [one.note for one in model.predict(images[2:4])]
    assert notes == ["", "values that are not finite: the class means nothing"]


def test_files_that_cannot_be_read_are_an_error_or_left_out(digits, tmp_path):
    """The caller chooses; the predictions of the other files are the same as without them."""
    model = dropopt.load_model(digits[0], device="cpu")
    pictures = (load_digits().images[:3] * 255 / 16).round().astype(np.uint8)
    good = [tmp_path / f"{number}.png" for number in range(3)]
    for path, pixels in zip(good, pictures, strict=True):
        Image.fromarray(pixels).save(path)
    bad = [tmp_path / "0-torn.png", tmp_path / "text.png"]
    bad[0].write_bytes(good[0].read_bytes()[:-30])
    bad[1].write_text("text")
    skipped = {}
    found = list(model.predictions(tmp_path, on_unreadable=lambda path, error: skipped.update({path: str(error)})))
    assert found == model.predict(good)
    assert list(skipped) == bad
    assert all(str(path) in error for path, error in skipped.items())
    assert not list(model.predictions(bad, on_unreadable=lambda path, error: None))
    with pytest.raises(ConfigError, match=r"0-torn\.png cannot be read .*; nor can .*text\.png"):
        model.predict(tmp_path)


@pytest.mark.parametrize(
    "engine", [{"pattern": "own", "r0": 0.4}, {"kind": "dropblock", "p": 0.3, "schedule": "linear"}]
)
def test_the_rates_of_the_best_epoch_travel(tmp_path, engine):
    """Every pattern and baseline drops at prediction as in the best epoch of training."""
    done = trained(tmp_path / "m.safetensors", epochs=3, engine=engine)
    model = dropopt.load_model(tmp_path / "m.safetensors", device="cpu")
    best = done.result.history[done.result.best_epoch - 1]
    applied = [float(site.p.mean()) if hasattr(site, "p") else site.part.p for _, site in model._dropper.sites]
    assert applied == pytest.approx([row["applied"] for row in best.rates], abs=1e-6)
    assert min(applied) > 0


def test_uncertainties_by_another_formula():
    """The entropy is that of the mean; the information is the mean divergence of the masks from it, by SciPy."""
    draws = torch.randn(5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(2)
    found, mean = Sampled.of(list(draws)), draws.mean(0)
    divergence = np.mean([entropy(one.numpy(), mean.numpy(), axis=1) for one in draws], 0)
    np.testing.assert_allclose(found.mean, mean)
    np.testing.assert_allclose(found.entropy, entropy(mean.numpy(), axis=1))
    np.testing.assert_allclose(found.information, divergence)


def test_samples_give_uncertainties(digits):
    """Masks are a function of the seed; the network is as before afterwards; statistics of BatchNorm do not move."""
    path, done = digits
    model = dropopt.load_model(path, device="cpu")
    images = source_units(done.data, done.data.test)[:20]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = model.predict(images)
    first, again, other = (model.predict(images, samples=5, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert model.predict(images) == plain
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(0 <= one.mutual_information <= one.entropy <= np.log(10) for one in first)
    assert max(one.mutual_information for one in first) > 0.001
    assert {one.mutual_information for one in plain} == {None}
    assert all(sum(one.probabilities.values()) == pytest.approx(1) for one in first)


def test_dropout_of_the_network_itself_is_sampled_beside_the_engines():
    """All of its dropout layers are in training mode meanwhile, and no other module; there is no warning."""
    hidden = nn.Linear(64, 32), nn.Dropout(0.5), nn.BatchNorm1d(32), nn.Linear(32, 32), nn.Dropout(0.1)
    network = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(32, 4)).eval()
    run = RunConfig.parse({"engine": {"sites": "linear"}, "train": {"device": "cpu"}})
    example = torch.zeros(2, 1, 8, 8)
    with dropopt.attach(network, run.engine, example=example, complexity=0.5, inside="keep") as engine:
        rates = rates_of(engine)
    dropper = Dropper.of(network, run, rates, (1, 8, 8))
    with dropper.dropping():
        assert [name for name, part in network.named_modules() if part.training] == ["2", "5"]
        assert all(len(network[place]._forward_hooks) == 1 for place in (1, 4))
    assert not any(part.training or part._forward_hooks for part in network.modules())


@pytest.mark.parametrize("engine", [{"kind": "none"}, {"kind": "dropout2d", "p": 0.0}, {"r0": 0.0}])
def test_a_network_that_drops_nothing_has_no_samples(tmp_path, engine):
    done = trained(tmp_path / "m.safetensors", engine=engine)
    images = source_units(done.data, done.data.test)[:4]
    with pytest.raises(ConfigError, match=r"trained without dropout of its features.*leave out --samples"):
        dropopt.load_model(tmp_path / "m.safetensors", device="cpu").predict(images, samples=2)


OWN = """
from torch import nn
open("imported", "a").close()

def network(channels, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, classes))
"""


def test_own_code_is_not_imported_unasked(own_module, monkeypatch, tmp_path):
    """A file that names a function of one's own follows the rules of dropopt.trust."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    own_module("own_net", OWN)
    done = trained(tmp_path / "m.safetensors", model={"name": "own_net:network"}, engine={"kind": "none"})
    (tmp_path / "imported").unlink()
    del sys.modules["own_net"]
    images = source_units(done.data, done.data.test)[:4]
    message = r"names the module 'own_net', which would be imported from .*to allow it, give"
    with pytest.raises(ConfigError, match=message):
        dropopt.load_model("m.safetensors")
    assert not (tmp_path / "imported").exists()
    model = dropopt.load_model("m.safetensors", code="own_net.py", device="cpu")
    assert model.predict(images, samples=3)[0].mutual_information > 0, "its own dropout is sampled"
    (tmp_path / "own_net.py").write_text(OWN + "\n")
    del sys.modules["own_net"]
    with pytest.raises(ConfigError, match=r"that file has changed; give its script with --code PATH"):
        dropopt.load_model("m.safetensors", trust=True)


def damaged(path, change_card=None, rates=None, weights=None, **metadata):
    """The file at ``path`` with another card, other rates or other weights, beside it."""
    with safe_open(path, "pt") as file:
        found = file.metadata()
    card = json.loads(found["dropopt"])
    if change_card is not None:
        change_card(card)
    found |= {"dropopt": json.dumps(card)} | ({"dropopt.rates": json.dumps(rates)} if rates is not None else {})
    target = path.with_name("damaged.safetensors")
    save_file(weights or load_file(path), target, found | metadata)
    return target


def test_malformed_files_are_reported_in_one_line(digits, tmp_path):
    """Whatever is wrong, the message has the file and one line, and no code has run."""
    path, _ = digits
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    (tmp_path / "text.safetensors").write_text("text")
    (tmp_path / "best.yaml").write_text("engine:")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:2000])
    (tmp_path / "huge.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    cases = [
        (tmp_path / "none.safetensors", "does not exist; give a .safetensors file"),
        (tmp_path, "is a folder; give a .safetensors file"),
        (tmp_path / "best.yaml", "is a configuration; type: dropopt train FILE -o model.safetensors"),
        (
            tmp_path / "a.pt",
            f"in your own code: model.load_state_dict(torch.load({str(tmp_path / 'a.pt')!r}, weights_only=True))",
        ),
        (tmp_path / "text.safetensors", "is not a .safetensors file, or is damaged"),
        (tmp_path / "cut.safetensors", "is not a .safetensors file, or is damaged"),
        (tmp_path / "huge.safetensors", "is not a .safetensors file, or is damaged"),
        (tmp_path / "other.safetensors", "was not written by dropopt train"),
        (lambda card: card.update(schema_version=9), "a newer dropopt wrote this file (schema 9"),
        (lambda card: card.pop("classes"), "the card is not valid: classes: Field required"),
        (lambda card: card.update(classes=["a", "a"]), "two classes have the same name"),
        (lambda card: card["inputs"].update(mean=[1, 2]), "mean and std must have 1 values each"),
        (lambda card: card["inputs"].update(std=[0]), "the card is not valid: inputs.std.0"),
        (lambda card: card["run"]["train"].update(lr=-1), "the card is not valid: run"),
        (lambda card: card["run"]["model"].update(name="vgg"), "do not fit the network vgg"),
        (lambda card: card["run"]["model"].update(name="os:system"), "names the module 'os'"),
        (lambda card: card["run"]["model"].update(options={"widths": [10**12]}), ""),
        ({"dropopt": "[1]"}, "its metadata must be a JSON object, got list"),
        ({"dropopt": "[" * 99999}, "its metadata are not valid JSON"),
        ({"weights": {"a": torch.zeros(1)}}, "do not fit the network small"),
        ({"rates": {"nowhere": {"p": [0.1]}}}, "drop rates for 'nowhere', where nothing is dropped"),
        ({"rates": {"1": {"p": "x"}}}, "the drop rates are not lists of numbers"),
        ({"rates": {"1": 3}}, "the drop rates are not lists of numbers"),
    ]
    for fault, said in cases:  # a file, a change of the card, or other contents
        file = fault
        if not isinstance(fault, Path):
            file = damaged(path, **({"change_card": fault} if callable(fault) else fault))
        with pytest.raises(ConfigError) as caught:
            dropopt.load_model(file, device="cpu")
        assert said in str(caught.value), said
        assert str(caught.value).startswith(str(file))
        assert "\n" not in str(caught.value)


def test_a_network_that_holds_more_than_tensors_needs_another_format(tmp_path, digits):
    class Odd(nn.Module):
        def get_extra_state(self):
            return {"steps": 3}

        def set_extra_state(self, state):
            pass

    path, done = digits
    with pytest.raises(ConfigError, match=r"'_extra_state' is no tensor; write a file with the suffix \.pt instead"):
        write_model(tmp_path / "m.safetensors", read_model(path).card, Odd().state_dict(), done.result.rates)
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize("name", ["masks", "volumes", "signals", "two_inputs"])
def test_data_without_images_of_a_class_are_refused_before_the_training(name):
    """A model file says how images (C, H, W) become one class each; the line says how to write the weights."""
    data = load_data(DataConfig(name=f"other_tasks:{name}"))
    with pytest.raises(
        ConfigError, match=r"^a model file is for images .* write the weights alone, with -o model\.pt$"
    ):
        refuse_other_samples(data)
