"""Augmentation: shift, flip and cutout."""

import time

import pytest
import torch
from torch.nn import functional as F
from toy import recipe, toy, train

from dropopt.config import ModelConfig
from dropopt.training import augment, build_model
from dropopt.training.optim import make_optimizer


class TestAugment:
    """Shift, flip and cutout."""

    CPU = torch.device("cpu")

    def draws(self, kinds, images, epoch=1):
        """Draws of one epoch, on the CPU."""
        return augment.draw(kinds, images, seed=0, epoch=epoch, device=self.CPU)

    @pytest.mark.parametrize("kinds", [("shift",), ("flip",), ("cutout",), ("flip", "shift", "cutout")])
    def test_it_equals_a_loop_over_images(self, kinds):
        """Each image equals, pixel for pixel, a slow implementation of the definition."""
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
                # The flip is applied before the shift.
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
        """Shifts reach an eighth of the side in both directions, half of the images are flipped, epochs differ."""
        images = torch.zeros(4000, 1, 32, 24)
        draws = self.draws(("shift", "flip", "cutout"), images)
        assert draws.shift.amin(0).tolist() == [-4, -3]
        assert draws.shift.amax(0).tolist() == [4, 3]
        assert abs(draws.flip.float().mean() - 0.5) < 0.04
        assert draws.cutout.amax(0).tolist() == [31, 23]
        assert not torch.equal(draws.shift, self.draws(("shift",), images, epoch=2).shift)

    def test_without_augmentation_images_are_unchanged(self):
        """Without augmentation a batch holds the images themselves, in channels_last memory."""
        images = toy().train.images
        assert self.draws((), images) is None
        batch = augment.take(images, torch.tensor([3, 1]))
        assert torch.equal(batch, images[[3, 1]])
        assert batch.is_contiguous(memory_format=torch.channels_last)

    def test_the_data_set_is_not_changed(self):
        """Cutout changes the batch, not the data set."""
        data = toy()
        before = data.train.images.clone()
        train(data=data, augment=("cutout",), epochs=1)
        assert torch.equal(data.train.images, before)

    def test_it_costs_under_a_tenth_of_a_step(self):
        """All three together cost less than a tenth of a step of the small network on 128 images of 28x28."""
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
