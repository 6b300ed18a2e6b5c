"""The callback of Hugging Face's Trainer: rates follow evaluations, and checkpoints continue bit for bit."""

from __future__ import annotations

import warnings

import pytest
import torch
from loops import DEMANDING, assert_continued, refreshes
from toy import CLASSES, toy

from dropopt.config import ConfigError, EngineConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from dropopt.integrations.transformers import STATE, DropoutCallback

pytestmark = pytest.mark.filterwarnings("ignore")  # the Trainer's own, about pinned memory

DATA = toy()


class Images(torch.utils.data.Dataset):
    """A split as a data set of mappings."""

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        return {"pixel_values": self.split.images[index].contiguous(), "labels": self.split.labels[index]}


def resnet():
    """A tiny ResNet of transformers."""
    shape = {"num_channels": 2, "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**shape, num_labels=CLASSES))


def transformer():
    """A tiny vision transformer."""
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    images = {"num_channels": 2, "image_size": DATA.image_size[0], "patch_size": 2}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**shape, **images, num_labels=CLASSES))


def train(folder, callback, *, resume=None, stop=None, strategy="epoch", epochs=2, make=resnet, **settings):
    """Train a tiny network; return the trainer."""
    torch.manual_seed(3)
    model = make()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=16, eval_strategy=strategy,
        save_strategy="epoch", report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no",
        **{"learning_rate": 0.01, **settings},
    )  # fmt: skip
    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=Images(DATA.train),
        eval_dataset=Images(DATA.validation),
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())},
        callbacks=[callback, *([Stop(stop)] if stop else [])],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


class Stop(transformers.TrainerCallback):
    """Ends the training after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.epoch >= self.epoch


def test_a_training_that_continues_gives_the_same_bits(tmp_path):
    callback, again = DropoutCallback(DEMANDING), DropoutCallback(DEMANDING)
    whole = train(tmp_path / "whole", callback)
    train(tmp_path / "half", DropoutCallback(DEMANDING), stop=1)
    (checkpoint,) = (tmp_path / "half").glob("checkpoint-*")
    assert (checkpoint / STATE).exists()
    rest = train(tmp_path / "half", again, resume=str(checkpoint))
    assert_continued((whole.model, callback.engine), (rest.model, again.engine))
    with pytest.raises(ConfigError, match=r"dropopt\.pt does not exist: the checkpoint was written without"):
        train(tmp_path / "elsewhere", DropoutCallback(DEMANDING), resume=str(checkpoint))


def test_metrics_reach_the_engine(tmp_path):
    """Losses and accuracy with evaluations; without, rates follow all steps. A missing metric is an error."""
    callback = DropoutCallback(EngineConfig(), complexity=0.5)
    train(tmp_path, callback, epochs=1)
    metrics = callback.engine._metrics
    assert metrics.progress == 1
    assert None not in (metrics.val_loss, metrics.val_accuracy, metrics.train_loss)
    callback = DropoutCallback(EngineConfig(), complexity=0.5)
    train(tmp_path / "no", callback, epochs=1.5, strategy="no")
    assert callback.engine._metrics.progress == 1
    assert callback.engine._metrics.val_loss is None
    with pytest.raises(ConfigError, match="no metric is called 'acc'"):
        train(tmp_path / "bad", DropoutCallback(EngineConfig(), complexity=0.5, val_accuracy="acc"), epochs=1)


@pytest.mark.parametrize("make", [resnet, transformer])
def test_accumulated_gradients_leave_the_training_loss(tmp_path, make):
    """The engine's training loss is the mean over samples, also of models whose loss is a share of several batches."""
    losses = []
    for batches in (1, 3):
        callback = DropoutCallback(EngineConfig(drop_updates="only", sites="conv"), complexity=0.5)
        train(tmp_path, callback, epochs=1, make=make, learning_rate=0.0, gradient_accumulation_steps=batches)
        losses.append(callback.engine._metrics.train_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_rates_are_refreshed_once_after_each_due_step_and_epoch(tmp_path, monkeypatch):
    """Also if ``max_steps`` ends the second epoch, of six steps, after two of them."""
    seen = refreshes(monkeypatch)
    train(tmp_path, DropoutCallback(EngineConfig(update_every=2), complexity=0.5), strategy="no", max_steps=8)
    assert seen == [2 / 8, 4 / 8, 6 / 8, 8 / 8]


def test_a_probe_with_labels_that_the_trainer_keeps_is_refused(tmp_path):
    """The line names the settings that keep them; without a probe, such a training works."""
    smooth = {"epochs": 1, "label_smoothing_factor": 0.1}
    with pytest.raises(ConfigError, match=r"With label_smoothing_factor .* the model gets no labels"):
        train(tmp_path, DropoutCallback(DEMANDING, complexity=0.5), **smooth)
    callback = DropoutCallback(EngineConfig(), complexity=0.5)
    train(tmp_path, callback, **smooth)
    assert callback.engine._metrics.val_loss is not None
