"""A complete run from its configuration."""

import copy
import re
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from samples import images, npz

from dropopt import randomness
from dropopt.config import ConfigError, ModelConfig, RunConfig
from dropopt.engine import attach
from dropopt.seeds import derived_seed
from dropopt.training import Dataset, build_model, fit, pipeline, prepare, train_run
from dropopt.training.data import reading

pytestmark = pytest.mark.usefixtures("cache")


class TestRun:
    """train_run."""

    def test_settings_reach_network_and_training(self, tmp_path, monkeypatch):
        """Images need not be square, the seed decides the initial weights, and the checkpoint is written."""
        name = npz(tmp_path / "a.npz", x=images(60, 8, 20), y=np.arange(60) % 3)
        settings = {"data": {"name": name}, "train": {"epochs": 1, "seed": 5}, "engine": {"kind": "none"}}
        started = []
        monkeypatch.setattr(
            "dropopt.training.pipeline.fit",
            lambda model, *given, **options: started.append(copy.deepcopy(model)) or fit(model, *given, **options),
        )
        train_run(RunConfig.parse(settings), checkpoint=tmp_path / "run.pt")
        expected = build_model(ModelConfig(), channels=1, classes=3, image_size=(8, 20), seed=5)
        assert all(torch.equal(a, b) for a, b in zip(started[0].parameters(), expected.parameters(), strict=True))
        reports = []
        train_run(RunConfig.parse(settings), reports.append, tmp_path / "run.pt")
        assert reports == []  # the checkpoint is that of the finished run

    def test_a_baseline_needs_no_complexity(self, monkeypatch):
        """It takes a second to compute for each new data set."""
        monkeypatch.setattr(Dataset, "complexity", property(lambda self: pytest.fail("computed")))
        settings = {"data": {"subset": 100}, "train": {"epochs": 1}, "engine": {"kind": "dropout2d"}}
        prepare(RunConfig.parse(settings))
        train_run(RunConfig.parse(settings))

    @pytest.mark.parametrize("channels_last", [True, False])
    def test_the_engine_gets_the_complexity_and_the_configured_layout(self, tmp_path, monkeypatch, channels_last):
        """Weights are in channels_last memory if configured, and the engine traces the layout that is trained."""
        seen, told = [], []

        def spy(model, config, *, example, complexity, **given):
            seen.extend((example, next(model.parameters())))
            told.append(complexity)
            return attach(model, config, example=example, complexity=complexity, **given)

        monkeypatch.setattr("dropopt.training.pipeline.attach", spy)
        name = npz(tmp_path / "a.npz", x=images(60, 8, 8, 3), y=np.arange(60) % 3)
        run = RunConfig.parse({"data": {"name": name}, "train": {"epochs": 1, "channels_last": channels_last}})
        _, _, data = train_run(run)
        assert told == [data.complexity]
        assert data.complexity != 0.5
        assert seen[0].shape == (2, 3, 8, 8)
        for tensor in seen:
            assert tensor.is_contiguous() != channels_last
            assert tensor.is_contiguous(memory_format=torch.channels_last) == channels_last

    def test_a_seed_keeps_its_meaning(self, monkeypatch):
        """The names of all random streams are fixed: with others, every seed would give other results."""
        seen = set()

        def recorded(seed, *names, **options):
            seen.add("/".join(map(str, names)))
            return derived_seed(seed, *names, **options)

        for module in (randomness, reading):
            monkeypatch.setattr(module, "derived_seed", recorded)
        train = {"epochs": 1, "batch_size": 40, "augment": ["shift", "flip", "cutout"]}
        train_run(RunConfig.parse({"data": {"subset": 97}, "train": train, "engine": {"kind": "none"}}))
        assert seen == {
            *("split/test", "split/subset", "split/validation", "weights", "dropout", "order/1"),
            *("augment/shift/1", "augment/flip/1", "augment/cutout/1"),
        }
        seen.clear()
        names = {"data": {"name": "other_tasks:lone"}, "model": {"name": "other_tasks:image_network"}}
        train = {"epochs": 1, "batch_size": 20}
        train_run(RunConfig.parse({**names, "train": train, "engine": {"kind": "none"}}))
        purposes = ("sample", "compare", "repeat", "evaluation", "reading/1")
        assert {re.sub(r"\d+$", "batch", name) for name in seen - {"order/1"}} == {
            *("split/samples", "weights", "dropout"),
            *(f"{purpose}/{part}" for purpose in purposes for part in ("start", "batch")),
        }

    def test_the_network_is_on_the_device_of_the_run(self, monkeypatch):
        """And so are the images with which the engine traces it, in a rehearsal as well."""
        seen = []

        def spy(model, config, *, example, **_):
            seen.extend((next(model.parameters()).device.type, example.device.type))
            return nullcontext(SimpleNamespace(sites=(), own=()))

        def stop(*_, **__):
            raise ConfigError("far enough")

        monkeypatch.setattr(pipeline, "resolve_device", lambda name: torch.device("meta"))
        monkeypatch.setattr(pipeline, "attach", spy)
        monkeypatch.setattr(pipeline, "fit", stop)
        run = RunConfig.parse({"data": {"subset": 100}, "engine": {"kind": "none"}})
        for begin in (prepare, train_run):
            with pytest.raises(ConfigError, match="far enough"):
                begin(run)
        assert seen == ["meta"] * 4
