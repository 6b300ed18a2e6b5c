"""Networks with several inputs: by position and by name, in training, scores, probes and checkpoints."""

from __future__ import annotations

import other_tasks
import pytest
import torch
from toy import Stop, stop_after

from dropopt.config import ConfigError, EngineConfig, RunConfig
from dropopt.engine import attach
from dropopt.training import prepare, train_run
from dropopt.training.evaluate import calibration_of
from dropopt.training.scored import score_on_test


def own(data, model="two_branches", engine=None, **train):
    """A run with functions of ``other_tasks``."""
    names = {"data": {"name": f"other_tasks:{data}"}, "model": {"name": f"other_tasks:{model}"}}
    settings = {"epochs": 2, "batch_size": 16, "lr": 0.05, "device": "cpu", **train}
    return RunConfig.parse({**names, "train": settings, "engine": engine or {}})


@pytest.mark.parametrize(
    ("data", "importance"),
    [("two_inputs", "lrp"), ("two_inputs", "taylor"), ("named_inputs", "gradient"), ("named_inputs", "composite")],
)
def test_a_network_with_two_branches(data, importance):
    """Places of both branches are found, importances are measured, and scores are those of the network itself."""
    run = own(data, engine={"importance": importance, "allocation": "importance", "sites": ["images.1", "vectors.1"]})
    prepared = prepare(run)
    shapes = list(prepared.facts.inputs.values())
    assert shapes[:2] == [[1, 8, 8], [5]]
    assert 0 < prepared.complexity < 1
    result, model, found = score_on_test(run)
    images = found.test.images
    with torch.no_grad():
        logits = model.eval()(*images) if isinstance(images, tuple) else model.eval()(**images)
    assert result.scores["test_accuracy"] == (logits.argmax(1) == found.test.labels).double().mean().item()
    assert result.scores["test_ece"] == calibration_of(model, found.test, run.train)
    assert {row["site"] for row in result.history[-1].rates} == {"images.1", "vectors.1"}


@pytest.mark.parametrize("data", ["named_inputs", "augmented"])
def test_an_interrupted_training_continues_bit_for_bit(data, tmp_path):
    """Also if the data are read anew in each epoch with random transforms."""
    run = own(data, "two_branches" if "inputs" in data else "image_network", epochs=3)
    whole, *_ = train_run(run)

    with pytest.raises(Stop):
        train_run(run, stop_after(2), checkpoint=tmp_path / "c")
    torch.randn(3)  # what happens in between has no effect
    continued, *_ = train_run(run, checkpoint=tmp_path / "c")
    assert continued.history[-1].val_loss == whole.history[-1].val_loss
    assert continued.history[-1].train_loss == whole.history[-1].train_loss


def test_what_takes_one_input_is_refused_in_one_line():
    names = {"data": {"name": "other_tasks:two_inputs"}, "model": {"name": "small"}}
    with pytest.raises(ConfigError, match="model small: this network takes one input, and the samples have 2"):
        prepare(RunConfig.parse(names))


def test_an_engine_takes_a_dictionary_as_its_example():
    """``attach`` and ``probe`` take the inputs by name, as the model does."""
    model = other_tasks.two_branches(
        {"picture": 1, "vector": 5, "place": 1}, 2, {"picture": (8, 8), "vector": (), "place": ()}
    )
    images, vectors, labels = other_tasks._pairs()
    batch = {"vector": vectors, "picture": images}
    with attach(model, EngineConfig(importance="lrp"), example=batch, complexity=0.5) as engine:
        engine.probe(batch, labels)
        engine.step(epoch=1, epochs=2, val_loss=1.0, val_accuracy=0.5)
        assert all(value.std() > 0 for value in engine.importances().values())
    with pytest.raises(
        ConfigError, match=r"^example must be a tensor, such as torch.stack\(images\), or .*, got list$"
    ):
        attach(model, EngineConfig(), example=[images, vectors])
