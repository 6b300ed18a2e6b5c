"""fit against the plain loop of PyTorch's documentation, in float64, for a network of one layer."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook
from toy import CLASSES, toy

from dropopt.config import TrainConfig
from dropopt.training import fit
from dropopt.training.optim import learning_rate

N, BATCH, EPOCHS = 90, 16, 4
STEPS = math.ceil(N / BATCH)  # five batches of 16 and one of 10


def optimizer_of(layer, config):
    """Written out: the bias does not decay, and momentum is Nesterov's."""
    groups = [{"params": [layer.weight], "weight_decay": config.weight_decay}]
    groups.append({"params": [layer.bias], "weight_decay": 0.0})
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "constant", "momentum": 0.0, "weight_decay": 0.0},
        {"schedule": "constant", "momentum": 0.7, "weight_decay": 0.3},
        {"schedule": "cosine", "momentum": 0.9, "label_smoothing": 0.2, "lr_scale": {"*.weight": 0.5}},
        {"schedule": "onecycle", "momentum": 0.5, "weight_decay": 0.1, "label_smoothing": 0.1},
        {"schedule": "onecycle", "optimizer": "adamw", "lr": 0.01, "weight_decay": 0.5},
        {"schedule": "cosine", "amp": "bf16", "channels_last": True},
    ],
)
def test_every_step_and_report_is_that_of_a_plain_loop(settings):
    """Weights, losses, accuracy and the optimizer's learning rates agree after every epoch of every recipe."""
    torch.manual_seed(0)
    data, model = toy(N), nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, CLASSES))
    config = TrainConfig(
        **{"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.02, "device": "cpu", "smooth": 0.5, **settings}
    )
    plain = copy.deepcopy(model).double()
    batches, rates, states = [], [], []
    model.register_forward_pre_hook(lambda m, given: batches.append(given[0].clone()) if m.training else None)
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append([group["lr"] for group in optimizer.param_groups])
    )
    try:
        result = fit(model, None, data, config, lambda _: states.append(copy.deepcopy(model.state_dict())))
    finally:
        hook.remove()

    # bf16 keeps 8 bits of each number.
    close = {"rtol": 3e-2, "atol": 3e-2} if config.amp == "bf16" else {"rtol": 2e-5, "atol": 2e-6}
    pairs = zip(data.train.images.flatten(1).tolist(), data.train.labels, strict=True)
    known = {tuple(image): label for image, label in pairs}
    optimizer = optimizer_of(plain[1], config)
    average = 0.0
    for epoch, report in enumerate(result.history):
        total = 0.0
        for step in range(epoch * STEPS, (epoch + 1) * STEPS):
            labels = torch.stack([known[tuple(image)] for image in batches[step].flatten(1).tolist()])
            rate = learning_rate(config, step / (EPOCHS * STEPS))
            own = [rate * config.lr_scale.get("*.weight", 1.0), rate]
            assert rates[step] == pytest.approx(own, rel=1e-12)
            for group, lr in zip(optimizer.param_groups, own, strict=True):
                group["lr"] = lr
            loss = F.cross_entropy(plain(batches[step].double()), labels, label_smoothing=config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(states[epoch][name].double(), value, **close)
        logits = plain(data.validation.images.double())
        loss = F.cross_entropy(logits, data.validation.labels).item()
        accuracy = (logits.argmax(1) == data.validation.labels).double().mean().item()
        average = 0.5 * average + 0.5 * loss
        found = report.train_loss, report.val_loss, report.smoothed_loss
        expected = total / N, loss, average / (1 - 0.5 ** (epoch + 1))
        assert found == pytest.approx(expected, rel=close["rtol"], abs=close["atol"])
        assert abs(report.val_accuracy - accuracy) <= (0.05 if config.amp == "bf16" else 0)
        assert (report.epoch, report.epochs) == (epoch + 1, EPOCHS)
        assert report.lr == rates[(epoch + 1) * STEPS - 1][1]  # of the bias, which has no scale
