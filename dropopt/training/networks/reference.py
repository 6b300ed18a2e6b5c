"""Reference CNNs: small, a ResNet-9 and a VGG, for images of any size from 4x4 and any number of channels.

They contain no dropout: the engine adds it. Every activation is a module of its own, so the engine can attach to each.

    small    a basic CNN: three convolutions and a hidden layer
    resnet9  after the nine-layer residual network that David Page trained for DAWNBench (2018)
    vgg      after Simonyan and Zisserman (2015), with BatchNorm and fewer, narrower layers
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dropopt.config import ConfigError

#: Side to which maps are pooled before a hidden layer, whose weights would otherwise outnumber the convolutions'.
LARGEST_MAP = 4


def small(
    channels: int,
    classes: int,
    image_size: tuple[int, int],
    widths: Sequence[int] = (32, 64, 64),
    head: int = 128,
) -> nn.Module:
    """Build convolutions of ``widths``, each halving maps of 4x4 or larger, and a hidden layer of ``head`` units."""
    return vgg(channels, classes, image_size, widths, 1, head)


def vgg(
    channels: int,
    classes: int,
    image_size: tuple[int, int],
    widths: Sequence[int] = (32, 64, 128),
    depth: int = 2,
    head: int = 256,
) -> nn.Module:
    """Build stages of ``depth`` convolutions, each stage halving the map, and a hidden layer of ``head`` units."""
    _check_widths(widths, 1)
    _check_count("depth", depth)
    layers, size = _Stack(channels), image_size
    for width in widths:
        for _ in range(depth):
            layers.convolve(width)
        size = layers.halve(size)
    return layers.with_head(size, head, classes)


def resnet9(
    channels: int,
    classes: int,
    image_size: tuple[int, int],
    widths: Sequence[int] = (32, 64, 128, 256),
) -> nn.Module:
    """Build a stem, three halving stages, global max-pooling and a linear layer.

    A residual block follows the first and the last stage.

    The default widths are half the original's, which takes a quarter of the time; ``widths: [64, 128, 256, 512]`` is
    the original.
    """
    _check_widths(widths, 4, exactly=True)
    stem, first, second, third = widths
    layers, size = _Stack(channels), image_size
    layers.convolve(stem)
    for width, residual in ((first, True), (second, False), (third, True)):
        layers.convolve(width)
        size = layers.halve(size)
        if residual:
            layers.add(Residual(width))
    return nn.Sequential(*layers.layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(third, classes))


class Residual(nn.Module):
    """Residual block: x plus two convolutions of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(*_convolution(width, width), *_convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        out: Tensor = x + self.inside(x)
        return out


class _Stack:
    """Collects layers and remembers how many channels the last one returns."""

    def __init__(self, channels: int) -> None:
        self.layers: list[nn.Module] = []
        self.width = channels

    def add(self, *layers: nn.Module) -> None:
        self.layers += layers

    def convolve(self, width: int) -> None:
        self.add(*_convolution(self.width, width))
        self.width = width

    def halve(self, size: tuple[int, int]) -> tuple[int, int]:
        """Pool by two unless a side is below 4; return the map's size."""
        if min(size) < 2 * 2:
            return size
        # Both are monotonic, so pooling before the ReLU gives the same result at a quarter of the ReLU's cost.
        self.layers.insert(-1, nn.MaxPool2d(2))
        return size[0] // 2, size[1] // 2

    def with_head(self, size: tuple[int, int], head: int, classes: int) -> nn.Module:
        _check_count("head", head)
        if max(size) > LARGEST_MAP:
            size = (min(size[0], LARGEST_MAP), min(size[1], LARGEST_MAP))
            self.add(nn.AdaptiveAvgPool2d(size))
        features = self.width * size[0] * size[1]
        return nn.Sequential(*self.layers, nn.Flatten(), nn.Linear(features, head), nn.ReLU(), nn.Linear(head, classes))


def _convolution(inside: int, outside: int) -> tuple[nn.Module, ...]:
    # BatchNorm's shift replaces the bias.
    return nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_count(name: str, value: object) -> None:
    if not _is_count(value):
        raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")


def _check_widths(widths: Sequence[int], count: int, *, exactly: bool = False) -> None:
    whole = isinstance(widths, Sequence) and all(_is_count(width) for width in widths)
    if not whole or len(widths) < count or (exactly and len(widths) != count):
        number = f"{count}" if exactly else f"{count} or more"
        raise ConfigError(f"widths must be {number} positive integers, got {widths!r}")
