"""Evaluation: loss, accuracy, and what it leaves unchanged."""

import copy
import math
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy import CLASSES, network, recipe, toy

from dropopt.training import Split, evaluate, fit
from dropopt.training.evaluate import _outputs, calibration_of, logits_of
from dropopt.training.task import Task

module = sys.modules["dropopt.training.evaluate"]


class TestEvaluate:
    """Loss and accuracy."""

    @pytest.mark.parametrize(("n", "right"), [(1, 1), (33, 0), (2048, 2048), (5000, 4321)])
    def test_known_accuracy(self, n, right):
        """If ``right`` of ``n`` labels are those of the logits, accuracy and loss are exact for any last batch."""
        labels = torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(0))
        shown = torch.where(torch.arange(n) < right, labels, (labels + 1) % 3)
        logits = 2.0 * F.one_hot(shown, 3).float()
        loss, accuracy = evaluate(nn.Flatten(), Split(logits[:, :, None, None], labels), recipe(device="cpu"))
        assert accuracy == right / n
        total = math.log(math.exp(2) + 2)
        assert math.isclose(loss, total - 2 * right / n, rel_tol=1e-6)

    @pytest.mark.parametrize("task", [None, Task(F.cross_entropy, None)])
    def test_a_sum_over_many_batches_keeps_its_digits(self, task):
        count = 3 * 2048 + 100
        logits = torch.zeros(count, 2)
        logits[:, 1] = torch.where(torch.arange(count) < 2048, 1e6, torch.linspace(0.1, 1.1, count))
        split = Split(logits[:, :, None, None], torch.zeros(count, dtype=torch.int64))
        batches = list(zip(logits.split(2048), split.labels.split(2048), strict=True))
        sums = [F.cross_entropy(*batch, reduction="sum").item() for batch in batches]
        if task is not None:  # its loss is a mean
            sums = [(F.cross_entropy(*batch) * len(batch[1])).item() for batch in batches]
        assert evaluate(nn.Flatten(), split, recipe(device="cpu"), task)[0] == sum(sums) / count

    @pytest.mark.parametrize("task", [None, Task(metric=F.cross_entropy)])
    def test_a_loss_of_bf16_is_computed_in_float32(self, task):
        """Loss, metric and logits are those of the model's outputs in bf16, and are not rounded once more."""
        torch.manual_seed(0)
        data, config, model = toy(), recipe(amp="bf16"), nn.Sequential(nn.Flatten(), nn.Linear(128, CLASSES))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            outputs = model(data.train.images)
        assert outputs.dtype == torch.bfloat16
        expected = F.cross_entropy(outputs.float(), data.train.labels).item()
        loss, metric = evaluate(model, data.train, config, task)
        assert loss == pytest.approx(expected, rel=1e-6)
        assert task is None or metric == pytest.approx(expected, rel=1e-6)
        torch.testing.assert_close(logits_of(model, data.train, config)[0], outputs.float(), rtol=0, atol=0)

    def test_outputs_and_labels_are_where_the_model_is(self, monkeypatch):
        monkeypatch.setattr(module, "autocast", lambda *_: nullcontext())  # there is none for the device meta
        split = Split(torch.zeros(50, 2, 4, 4), torch.zeros(50, dtype=torch.int64))
        model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3, device="meta"))
        ((logits, labels),) = _outputs(model, split, recipe())
        assert (logits.device.type, labels.device.type, logits.shape) == ("meta", "meta", (50, 3))

    def test_calibration_error_has_fifteen_bins(self):
        """It equals a direct computation from the definition, over batches of any size."""
        logits = 2 * torch.randn(700, 4, generator=torch.Generator().manual_seed(0))
        labels = torch.randint(0, 4, (700,), generator=torch.Generator().manual_seed(1))
        found = calibration_of(nn.Flatten(), Split(logits[:, :, None, None], labels), recipe(device="cpu"))
        probabilities = logits.double().softmax(1).numpy()
        confidence, right = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
        expected = 0.0
        for low in range(15):
            inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
            if inside.any():
                expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        assert math.isclose(found, expected, rel_tol=1e-9)

    def test_it_changes_nothing(self):
        model = network()
        model.train()
        model[1].eval()
        before = copy.deepcopy(model.state_dict())
        state = torch.get_rng_state()
        evaluate(model, toy().validation, recipe())
        assert [m.training for m in model] == [i != 1 for i in range(len(model))]
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert torch.equal(torch.get_rng_state(), state)

    def test_networks_are_told(self):
        """A network that does more in eval() than set modes is evaluated as it is used."""

        class Folded(nn.Flatten):
            def train(self, mode=True):
                told.append(mode)
                return super().train(mode)

        told, split = [], Split(torch.zeros(4, 2, 1, 1), torch.zeros(4, dtype=torch.int64))
        evaluate(Folded(), split, recipe(device="cpu"))
        calibration_of(Folded(), split, recipe(device="cpu"))
        assert told == [False, False]

    @pytest.mark.parametrize("hardware", [True, False])
    def test_layout_and_precision_follow_the_configuration(self, monkeypatch, hardware):
        """Batches have the configured layout; bf16 is used if configured, or if auto finds hardware for it."""
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": hardware}, raising=False
        )
        formats, types = [], []

        class Spy(nn.Module):
            def __init__(self):
                super().__init__()
                self.inside = nn.Linear(128, CLASSES)

            def forward(self, x):
                formats.append(x.is_contiguous())
                out = self.inside(x.flatten(1))
                types.append(out.dtype)
                return out

        for settings in ({"channels_last": True}, {"amp": "bf16"}, {"amp": "auto"}):
            evaluate(Spy(), toy().validation, recipe(**settings))
            fit(Spy(), None, toy(), recipe(epochs=1, **settings))
        third = len(formats) // 3
        assert formats == [False] * third + [True] * 2 * third
        automatic = torch.bfloat16 if hardware else torch.float32
        assert types == [torch.float32] * third + [torch.bfloat16] * third + [automatic] * third

    def test_what_a_model_keeps_can_be_trained_with(self):
        """A tensor that the model stores in eval mode takes part in a later backward pass."""

        class Keeps(nn.Module):
            def __init__(self):
                super().__init__()
                self.inside, self.kept = nn.Linear(128, CLASSES), None

            def forward(self, x):
                out = self.inside(x.flatten(1))
                if self.training:
                    return out * self.kept[0]  # saved for the backward pass
                self.kept = out
                return out

        model = Keeps()
        evaluate(model, toy().validation, recipe())
        model.train()(toy().train.images).sum().backward()
        assert model.inside.weight.grad.abs().sum() > 0
