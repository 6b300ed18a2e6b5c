"""fit against a slow implementation: softmax regression, whose gradient has a closed form, in NumPy and float64."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from toy import CLASSES, toy

from dropopt.config import TrainConfig
from dropopt.training import fit

FEATURES = 2 * 8 * 8
N, BATCH, EPOCHS = 90, 16, 4
STEPS = math.ceil(N / BATCH)  # five batches of 16 and one of 10

ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8


def schedule(name, lr, progress):
    """The learning rate, written out; one cycle has the defaults of PyTorch's OneCycleLR."""
    if name == "constant":
        return lr
    if name == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * progress))
    if progress < 0.3:
        start, end, share = lr / 25, lr, progress / 0.3
    else:
        start, end, share = lr, lr / 25 / 1e4, (progress - 0.3) / 0.7
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def loss_of(weight, bias, images, labels, smoothing):
    """Mean cross-entropy with smoothed targets, its gradients, and the accuracy."""
    logits = images @ weight.T + bias
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.eye(CLASSES)[labels] * (1 - smoothing) + smoothing / CLASSES
    loss = -(target * log_p).sum(1).mean()
    error = (np.exp(log_p) - target) / len(labels)
    return loss, (error.T @ images, error.sum(0)), (logits.argmax(1) == labels).mean()


class Sgd:
    """Stochastic gradient descent with Nesterov momentum, as PyTorch defines it."""

    def __init__(self, momentum):
        self.momentum, self.velocity = momentum, None

    def __call__(self, values, gradients, decays, rates):
        """One step."""
        gradients = [g + decay * value for g, decay, value in zip(gradients, decays, values, strict=True)]
        if self.velocity is None:
            self.velocity = gradients
        else:
            self.velocity = [self.momentum * v + g for v, g in zip(self.velocity, gradients, strict=True)]
        parts = zip(values, gradients, self.velocity, rates, strict=True)
        return [value - lr * (g + self.momentum * v) for value, g, v, lr in parts]


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    def __init__(self):
        self.first, self.second, self.steps = [0.0, 0.0], [0.0, 0.0], 0

    def __call__(self, values, gradients, decays, rates):
        """One step."""
        self.steps += 1
        (b1, b2), t, out = ADAM_BETAS, self.steps, []
        for i, (value, g, decay, lr) in enumerate(zip(values, gradients, decays, rates, strict=True)):
            self.first[i] = b1 * self.first[i] + (1 - b1) * g
            self.second[i] = b2 * self.second[i] + (1 - b2) * g * g
            update = self.first[i] / (1 - b1**t) / (np.sqrt(self.second[i] / (1 - b2**t)) + ADAM_EPS)
            out.append(value * (1 - lr * decay) - lr * update)
        return out


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
def test_every_step_and_report_is_that_of_the_closed_form(settings):
    """Weights, losses, accuracy and the optimizer's learning rates agree after every epoch of every recipe."""
    torch.manual_seed(0)
    data, model = toy(N), nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, CLASSES))
    config = TrainConfig(
        **{"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.02, "device": "cpu", "smooth": 0.5, **settings}
    )
    layer = model[1]
    weight, bias = (p.detach().numpy().astype(np.float64) for p in layer.parameters())
    batches, rates, states = [], [], []
    model.register_forward_pre_hook(lambda m, given: batches.append(given[0].clone()) if m.training else None)
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append([g["lr"] for g in optimizer.param_groups])
    )
    try:
        result = fit(model, None, data, config, lambda _: states.append(copy.deepcopy(layer.state_dict())))
    finally:
        hook.remove()

    # bf16 keeps 8 bits of each number.
    close = {"rtol": 3e-2, "atol": 3e-2} if config.amp == "bf16" else {"rtol": 2e-5, "atol": 2e-6}
    images = data.train.images.flatten(1).numpy()
    known = {image.tobytes(): label for image, label in zip(images, data.train.labels.tolist(), strict=True)}
    optimizer = AdamW() if config.optimizer == "adamw" else Sgd(config.momentum)
    average = 0.0
    for epoch, report in enumerate(result.history):
        total = 0.0
        for step in range(STEPS):
            batch = batches[epoch * STEPS + step].flatten(1).contiguous().numpy()
            labels = np.array([known[image.tobytes()] for image in batch])
            rate = schedule(config.schedule, config.lr, (epoch * STEPS + step) / (EPOCHS * STEPS))
            own = [rate * config.lr_scale.get("*.weight", 1.0), rate]
            assert rates[epoch * STEPS + step] == pytest.approx(own, rel=1e-12)
            loss, gradients, _ = loss_of(weight, bias, batch.astype(np.float64), labels, config.label_smoothing)
            total += loss * len(batch)
            weight, bias = optimizer([weight, bias], gradients, [config.weight_decay, 0.0], own)
        np.testing.assert_allclose(states[epoch]["weight"], weight, **close)
        np.testing.assert_allclose(states[epoch]["bias"], bias, **close)
        checked = data.validation.images.flatten(1).numpy().astype(np.float64)
        loss, _, accuracy = loss_of(weight, bias, checked, data.validation.labels.numpy(), 0.0)
        average = 0.5 * average + 0.5 * loss
        np.testing.assert_allclose(report.train_loss, total / N, **close)
        np.testing.assert_allclose(report.val_loss, loss, **close)
        np.testing.assert_allclose(report.smoothed_loss, average / (1 - 0.5 ** (epoch + 1)), **close)
        assert abs(report.val_accuracy - accuracy) <= (0.05 if config.amp == "bf16" else 0)
        assert (report.epoch, report.epochs) == (epoch + 1, EPOCHS)
        assert report.lr == rates[epoch * STEPS + STEPS - 1][1]  # of the bias, which has no scale
