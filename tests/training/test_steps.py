"""What a training step is made of: optimizer and rate, augmentation, evaluation."""

import copy
import math
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy import CLASSES, network, recipe, toy, train

from dropopt.config import ConfigError, ModelConfig
from dropopt.training import augment, build_model, evaluate, fit
from dropopt.training.optim import learning_rate, make_optimizer


class TestOptimizer:
    """Rates and decay."""

    def test_norms_and_biases_do_not_decay(self):
        """Weights of two or more dimensions are in the group that decays, everything else in one that does not."""
        model = network()
        for kind in ("sgd", "adamw"):
            decays, spared = make_optimizer(model, recipe(optimizer=kind, weight_decay=0.1)).param_groups
            assert (decays["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
            assert {id(p) for p in decays["params"]} == {id(p) for p in model.parameters() if p.ndim > 1}
            assert len(decays["params"]) + len(spared["params"]) == len(list(model.parameters()))

    def test_frozen_parameters_stay(self):
        """What requires no gradient is not trained; a network that is all frozen is refused."""
        model, before = network(), network()
        model[0].weight.requires_grad_(False)
        fit(model, None, toy(), recipe(epochs=1))
        assert torch.equal(model[0].weight, before[0].weight)
        assert not torch.equal(model[4].weight, before[4].weight)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        with pytest.raises(ConfigError, match="no parameter that requires a gradient"):
            fit(model, None, toy(), recipe())

    def test_schedules(self):
        """One cycle is PyTorch's, within rounding of its steps; cosine falls from lr to 0; constant stays."""
        steps = 1001
        one, cosine, constant = (recipe(schedule=name, lr=0.2) for name in ("onecycle", "cosine", "constant"))
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
        theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps, cycle_momentum=False)
        for step in range(steps - 1):
            assert abs(learning_rate(one, step / steps) - theirs.get_last_lr()[0]) < 1e-3
            optimizer.step()
            theirs.step()
        assert learning_rate(cosine, 0.0) == 0.2
        assert math.isclose(learning_rate(cosine, 0.5), 0.1)
        assert 0 < learning_rate(cosine, 0.999) < 1e-5
        assert learning_rate(constant, 0.7) == 0.2


class TestAugment:
    """Shift, flip and cutout."""

    CPU = torch.device("cpu")

    def draws(self, kinds, images, epoch=1):
        """Draws of one epoch, on the CPU."""
        return augment.draw(kinds, images, seed=0, epoch=epoch, device=self.CPU)

    @pytest.mark.parametrize("kinds", [("shift",), ("flip",), ("cutout",), ("flip", "shift", "cutout")])
    def test_it_is_what_a_loop_over_samples_would_do(self, kinds):
        """Each image equals, pixel for pixel, a slow version by the definition."""
        images = toy(n=30, side=16, channels=3).train.images
        order = torch.randperm(30)
        draws = self.draws(kinds, images)
        where = slice(10, 22)
        batch = augment.take(images, order[where], draws, where)
        for row, position in enumerate(range(10, 22)):
            image = images[order[position]].clone()
            if draws.shift is not None:
                dy, dx = draws.shift[position].tolist()
                padded = F.pad(image[None], (2, 2, 2, 2), mode="replicate")[0]
                image = padded[:, 2 + dy : 18 + dy, 2 + dx : 18 + dx]
            if draws.flip is not None and draws.flip[position]:
                # A flip mirrors where pixels come from, so a flipped image is shifted the other way.
                dx = 0 if draws.shift is None else dx
                source = images[order[position]].flip(2)
                padded = F.pad(source[None], (2, 2, 2, 2), mode="replicate")[0]
                dy = 0 if draws.shift is None else dy
                image = padded[:, 2 + dy : 18 + dy, 2 + dx : 18 + dx]
            if draws.cutout is not None:
                cy, cx = draws.cutout[position].tolist()
                image = image.clone()
                image[:, max(cy - 2, 0) : cy + 2, max(cx - 2, 0) : cx + 2] = 0
            assert torch.equal(batch[row], image), position

    def test_draws_cover_their_range(self):
        """Shifts reach an eighth of the side both ways, half of the images are flipped, epochs differ."""
        images = torch.zeros(4000, 1, 32, 24)
        draws = self.draws(("shift", "flip", "cutout"), images)
        assert draws.shift.amin(0).tolist() == [-4, -3]
        assert draws.shift.amax(0).tolist() == [4, 3]
        assert abs(draws.flip.float().mean() - 0.5) < 0.04
        assert draws.cutout.amax(0).tolist() == [31, 23]
        assert not torch.equal(draws.shift, self.draws(("shift",), images, epoch=2).shift)

    def test_nothing_asked_nothing_changed(self):
        """Without augmentation a batch is the images themselves, in channels_last memory."""
        images = toy().train.images
        assert self.draws((), images) is None
        batch = augment.take(images, torch.tensor([3, 1]))
        assert torch.equal(batch, images[[3, 1]])
        assert batch.is_contiguous(memory_format=torch.channels_last)

    def test_the_data_set_is_not_changed(self):
        """Cutout blanks the batch, never the images that it was taken from."""
        data = toy()
        before = data.train.images.clone()
        train(data=data, augment=("cutout",), epochs=1)
        assert torch.equal(data.train.images, before)

    def test_it_costs_under_a_tenth_of_a_step(self):
        """All three at once, for a batch of 128 images of 28x28, against a step of the small network."""
        images = torch.randn(1000, 1, 28, 28)
        labels, index = torch.arange(128) % 10, torch.randperm(1000)[:128]
        model = build_model(ModelConfig(), channels=1, classes=10, image_size=28, seed=0)
        optimizer = make_optimizer(model, recipe())
        draws = self.draws(("shift", "flip", "cutout"), images)

        def step():
            F.cross_entropy(model(augment.take(images, index)), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        def cost(function, times):
            function()
            spent = []
            for _ in range(times):
                began = time.perf_counter()
                function()
                spent.append(time.perf_counter() - began)
            return min(spent)

        plain = cost(lambda: augment.take(images, index), 50)
        augmented = cost(lambda: augment.take(images, index, draws, slice(0, 128)), 50)
        assert augmented - plain < 0.1 * cost(step, 10)


class TestEvaluate:
    """Loss and accuracy."""

    def test_it_is_the_plain_mean(self):
        """Over batches of any size it equals cross-entropy and accuracy of the whole split, without smoothing."""
        data, model = (
            toy(n=500, side=32),
            build_model(
                ModelConfig(options={"widths": (4,), "head": 4}), channels=2, classes=CLASSES, image_size=32, seed=0
            ),
        )
        loss, accuracy = evaluate(model, data.train, recipe(label_smoothing=0.3))
        with torch.no_grad():
            logits = model.eval()(data.train.images)
        assert math.isclose(loss, F.cross_entropy(logits, data.train.labels).item(), rel_tol=1e-5)
        assert accuracy == (logits.argmax(1) == data.train.labels).sum().item() / 500

    def test_it_leaves_no_trace(self):
        """Modes, mixed ones too, BatchNorm statistics, gradients and random state are as before."""
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

    @pytest.mark.parametrize("hardware", [True, False])
    def test_layout_and_precision_are_those_asked_for(self, monkeypatch, hardware):
        """channels_last batches reach the model as such; bf16 is what runs if asked for, or if auto finds hardware."""
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
