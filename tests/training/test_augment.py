"""Augmentation: shift, flip and cutout."""

import time

import pytest
import torch
from torch.nn import functional as F
from toy import recipe, toy

from dropopt.config import ModelConfig
from dropopt.randomness import generator
from dropopt.training import augment, build_model
from dropopt.training.optim import make_optimizer


class TestAugment:
    """Shift, flip and cutout."""

    CPU = torch.device("cpu")

    def draws(self, kinds, images):
        """Draws of one epoch, on the CPU."""
        return augment.draw(kinds, images, seed=0, epoch=1, device=self.CPU)

    @pytest.mark.parametrize("size", [(16, 16), (12, 20), (4, 2)])
    @pytest.mark.parametrize("kinds", [("shift",), ("flip",), ("cutout",), ("flip", "shift", "cutout")])
    def test_it_equals_a_loop_over_images(self, kinds, size):
        """Each pixel equals that of a slow implementation of the definition. The images themselves are not changed."""
        height, width = size
        images = torch.randn(30, 3, height, width).contiguous(memory_format=torch.channels_last)
        order, before = torch.randperm(30), images.clone()
        draws = self.draws(kinds, images)
        where = slice(10, 22)
        batch = augment.take(images, order[where], draws, where)
        assert torch.equal(images, before)
        for row, position in enumerate(range(10, 22)):
            image = images[order[position]]
            if draws.flip is not None and draws.flip[position]:
                image = image.flip(2)
            dy, dx = (0, 0) if draws.shift is None else draws.shift[position].tolist()
            padded = F.pad(image[None], (9, 9, 9, 9), mode="replicate")[0]
            image = padded[:, 9 + dy : 9 + dy + height, 9 + dx : 9 + dx + width].clone()
            if draws.cutout is not None:
                (cy, cx), (h, w) = draws.cutout[position].tolist(), (max(1, round(side / 4)) for side in size)
                image[:, max(cy - h // 2, 0) : cy - h // 2 + h, max(cx - w // 2, 0) : cx - w // 2 + w] = 0
            assert torch.equal(batch[row], image), position

    def test_a_batch_is_where_the_images_are(self):
        """Whatever the default device of torch is."""
        images = torch.arange(12.0 * 48).view(12, 3, 4, 4)
        draws, order = self.draws(("flip", "shift", "cutout"), images), torch.arange(12)
        with torch.device("meta"):
            batch = augment.take(images, order[:5], draws, slice(5))
        assert torch.equal(batch, augment.take(images, order[:5], draws, slice(5)))

    def test_each_kind_has_its_own_stream(self):
        """The draws of a kind are those of the generator named for seed, kind and epoch, whatever the other kinds."""
        images = torch.zeros(50, 1, 4, 32)
        draws = augment.draw(("cutout", "flip", "shift"), images, seed=3, epoch=2, device=self.CPU)
        assert torch.equal(draws.flip, torch.rand(50, generator=generator(3, "augment", "flip", 2)) < 0.5)
        for kind, ranges in (("shift", ((-1, 2), (-4, 5))), ("cutout", ((0, 4), (0, 32)))):
            stream = generator(3, "augment", kind, 2)
            expected = [torch.randint(low, high, (50,), generator=stream) for low, high in ranges]  # rows and columns
            assert torch.equal(getattr(draws, kind), torch.stack(expected, 1)), kind

    def test_without_augmentation_images_are_unchanged(self):
        images = toy().train.images
        assert self.draws((), images) is None
        batch = augment.take(images, torch.tensor([3, 1]))
        assert torch.equal(batch, images[[3, 1]])
        assert batch.is_contiguous(memory_format=torch.channels_last)

    def test_it_costs_under_a_tenth_of_a_step(self):
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

        plain = cost(lambda: augment.take(images, index), 20)
        augmented = cost(lambda: augment.take(images, index, draws, slice(0, 128)), 20)
        assert augmented - plain < 0.1 * cost(step, 5)
