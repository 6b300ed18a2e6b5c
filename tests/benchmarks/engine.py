"""Time, memory and drop rates of the engine, compared with torch, torchvision and timm.

    python -m tests.benchmarks.engine
    python -m tests.benchmarks.engine --rounds 50 --only steps

One process with one thread trains the small CNN on 128 images of 28x28. Every method drops at the same four places
(three BatchNorm outputs and one hidden layer). Groups of eight steps of one method alternate with those of the others.
The engine scores importance in one step of eight, by taylor unless another importance is named. On a CPU, time is
processor time of this process, so that other processes do not count, and the allocator keeps freed memory, so that
page faults do not hit a method at random. On CUDA, time is that of the device.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torchvision
from timm.layers import DropBlock2d as TimmDropBlock
from torch import Tensor, nn
from torchvision.ops import DropBlock2d

import dropopt
from dropopt.config import METHODS, Baseline, EngineConfig, ModelConfig
from dropopt.engine.masks.mixture import OWN_PATTERN
from dropopt.engine.site import DropoutSite
from dropopt.study.run.slots import KEEP_MEMORY
from dropopt.training import build_model

P = 0.25
BLOCK = 3
BATCH = 128
#: Steps that are timed together, because the engine scores in one of eight.
TOGETHER = 8
#: Name, whether bf16 autocast is on, and whether channels lie innermost.
SETTINGS = (
    ("bf16 autocast, channels_last", True, True),
    ("float32, channels_last", False, True),
    ("float32, contiguous", False, False),
)
#: Networks and numbers of images per step for which the cost of pattern ``own`` is measured.
MIXED = (("small", 128), ("small", 512), ("resnet9", 128), ("torchvision:resnet18", 128))
#: Steps of an epoch of 5,000 images, the size of small studies.
STEPS_PER_EPOCH = 5000 // BATCH
#: Images of the labelled batch that probes are given.
PROBED = 128
#: Pattern ``own`` with equal shares of the five methods.
OWN = EngineConfig(pattern="own", r0=P, block_size=BLOCK, **{f"w_{method}": 1 / len(METHODS) for method in METHODS})
EVERY_IMPORTANCE = ("taylor", "activation", "statistical", "gradient", "lrp", "composite")


@dataclass
class Arm:
    """One method with its own network, and the seconds of its steps."""

    name: str
    model: nn.Module
    engine: Any
    seconds: list[float] = field(default_factory=list)


def make_arms(device: torch.device, channels_last: bool) -> list[Arm]:
    """Return all methods on the small CNN; the first drops nothing."""
    ours = {"r0": P, "block_size": BLOCK}
    settings: dict[str, Any] = {
        "no dropout": Baseline(kind="none"),
        "nn.Dropout": Baseline(kind="dropout", p=P),
        "nn.Dropout2d": Baseline(kind="dropout2d", p=P),
        "torchvision DropBlock": Baseline(kind="dropblock", p=P, block_size=BLOCK),
        "timm DropBlock": Baseline(kind="dropblock", library="timm", p=P, block_size=BLOCK),
    }
    for pattern in ("element", "channel", "structured", "spatial"):
        settings[f"dropopt {pattern}"] = EngineConfig(pattern=pattern, **ours)
    settings["dropopt own, equal shares"] = OWN
    for pattern in ("element", "channel", "spatial"):
        settings[f"dropopt {pattern}, a rate per feature"] = EngineConfig(pattern=pattern, allocation="feature", **ours)
    for importance in ("activation", "statistical"):
        settings[f"dropopt channel, {importance}"] = EngineConfig(pattern="channel", importance=importance, **ours)
    return attached(settings, "small", device, channels_last)


def attached(settings: dict[str, Any], network: str, device: torch.device, channels_last: bool) -> list[Arm]:
    """Return a copy of a network with each method; all have equal initial weights."""
    model = build_model(ModelConfig(name=network), channels=1, classes=10, image_size=28, seed=0).to(device).train()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    arms = []
    for name, config in settings.items():
        own = copy.deepcopy(model)
        arms.append(Arm(name, own, dropopt.attach(own, config, example=torch.randn(2, 1, 28, 28), complexity=0.5)))
    return arms


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the processor time of ``work``, or its time on a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start
    start = time.process_time()
    work()
    return time.process_time() - start


def training_step(model: nn.Module, images: Tensor, labels: Tensor, half: bool) -> Callable[[], None]:
    """Return a function that runs one training step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def make_batch(device: torch.device, channels_last: bool = False, images: int = BATCH) -> tuple[Tensor, Tensor]:
    """Return noise images and labels."""
    x = torch.randn(images, 1, 28, 28, device=device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return x.contiguous(memory_format=layout), torch.randint(0, 10, (images,), device=device)


def time_steps(arms: list[Arm], batch: tuple[Tensor, Tensor], device: torch.device, half: bool, rounds: int) -> None:
    """Time eight steps of every method per round, in a random order."""
    steps = {arm.name: training_step(arm.model, *batch, half) for arm in arms}
    order = random.Random(0)
    for number in range(-3, rounds):
        for arm in order.sample(arms, len(arms)):
            elapsed = seconds(lambda step=steps[arm.name]: [step() for _ in range(TOGETHER)], device)
            if number >= 0:
                arm.seconds.append(elapsed / TOGETHER)


def ratio(arm: Arm, other: Arm) -> float:
    """Return the median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(arm.seconds, other.seconds, strict=True))


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print a table in Markdown."""
    print("| " + " | ".join(head) + " |")
    print("| --- |" + " ---: |" * (len(head) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def report_steps(device: torch.device, rounds: int) -> None:
    """Print the milliseconds of a training step, and the ratios to the libraries' methods."""
    for kind, half, channels_last in SETTINGS:
        arms = make_arms(device, channels_last)
        time_steps(arms, make_batch(device, channels_last), device, half, rounds)
        by_name = {arm.name: arm for arm in arms}
        print(f"A training step, {kind} (median of {rounds} times {TOGETHER}, p = {P})\n")
        references = ("no dropout", "nn.Dropout", "nn.Dropout2d", "timm DropBlock", "torchvision DropBlock")
        rows = [
            [arm.name, f"{1e3 * statistics.median(arm.seconds):.2f}"]
            + [f"{ratio(arm, by_name[reference]):.2f}" for reference in references]
            for arm in arms
        ]
        print_table(["method", "ms", *(f"/ {name}" for name in references)], rows)


def report_own(device: torch.device, rounds: int) -> None:
    """Print the cost of a step with pattern ``own`` relative to Dropout2d and to the patterns that it mixes."""
    patterns = {pattern: list(OWN_PATTERN.values()).count(pattern) for pattern in OWN_PATTERN.values()}
    settings: dict[str, Any] = {"own": OWN, "nn.Dropout2d": Baseline(kind="dropout2d", p=P)}
    settings |= {pattern: EngineConfig(pattern=pattern, r0=P, block_size=BLOCK) for pattern in patterns}
    rows = []
    for network, images in MIXED:
        arms = attached(settings, network, device, channels_last=True)
        time_steps(arms, make_batch(device, True, images), device, True, rounds)
        by_name = {arm.name: arm for arm in arms}
        mixed = [arm for arm in arms for _ in range(patterns.get(arm.name, 0))]
        means = [statistics.mean(row) for row in zip(*(arm.seconds for arm in mixed), strict=True)]
        mean = Arm("mean", arms[0].model, None, means)
        own = by_name["own"]
        row = [f"{1e3 * statistics.median(own.seconds):.0f}"]
        row += [f"{ratio(own, other):.3f}" for other in (by_name["nn.Dropout2d"], mean)]
        rows.append([f"{network}, {images}", str(len(own.engine.sites)), *row])
    print(f"A step with pattern own, equal shares, bf16 (median of {rounds} times {TOGETHER}, p = {P})\n")
    print_table(["network, images per step", "places", "ms", "/ nn.Dropout2d", "/ mean of its patterns"], rows)


def dropped(part: Callable[[Tensor], Tensor], size: int, device: torch.device) -> float:
    """Return the dropped fraction of many maps of ones."""
    torch.manual_seed(0)
    x = torch.ones(8_000_000 // size**2, 1, size, size, device=device)
    return (part(x) == 0).double().mean().item()


def report_rates(device: torch.device) -> None:
    """Print what each DropBlock drops at a requested rate of 0.1."""
    p = 0.1
    host = nn.Identity().train()
    rows = []
    for size in (7, 14, 28):
        for block in (3, 4, 7):
            site = DropoutSite(1, 1, "spatial", block).to(device)
            site.p.fill_(p)
            ours = dropped(lambda x, site=site: site.hook(host, (), x), size, device)
            theirs = dropped(TimmDropBlock(p, block).train(), size, device)
            try:
                torchvisions = f"{dropped(DropBlock2d(p, block).train(), size, device):.3f}"
            except ValueError:
                torchvisions = "refuses even blocks"
            rows.append([f"{size}x{size}", str(block), f"{ours:.3f}", f"{theirs:.3f}", torchvisions])
    print(f"Dropped fraction at a requested rate of {p}\n")
    print_table(["map", "block", "dropopt spatial", "timm DropBlock", "torchvision DropBlock"], rows)


def report_epoch(device: torch.device) -> None:
    """Print the time of the work done once per epoch, relative to the epoch."""
    rows = []
    for importance in EVERY_IMPORTANCE:
        config = EngineConfig(pattern="structured", allocation="feature", importance=importance, w_spatial=0.2)
        model = build_model(ModelConfig(name="small"), channels=1, classes=10, image_size=28, seed=0).to(device).train()
        images, labels = make_batch(device)
        engine = dropopt.attach(model, config, example=images[:2], complexity=0.5)
        step = training_step(model, images, labels, half=False)
        probed = make_batch(device, images=PROBED)

        def refresh(engine: Any = engine, probed: tuple[Tensor, Tensor] = probed) -> None:
            engine.probe(*probed)
            engine.step(epoch=1, epochs=10, val_loss=1.0, train_loss=0.5, val_accuracy=0.5)

        for work in (step, refresh):
            work()
        # Alternate, so that a slow phase of the machine affects both.
        pairs = [(seconds(step, device), seconds(refresh, device)) for _ in range(20)]
        once = statistics.median(b for _, b in pairs)
        share = statistics.median(b / (a * STEPS_PER_EPOCH) for a, b in pairs)
        rows.append([importance, f"{1e3 * once:.2f}", f"{100 * share:.2f} %"])
    print(f"Once per epoch: rates and importances (median of 20; relative to {STEPS_PER_EPOCH} float32 steps)\n")
    print_table(["importance", "ms", "share of an epoch"], rows)


def kept_bytes(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Return the bytes that are saved for the backward pass, without parameters, counting each storage once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(model(images), labels)
    total = sum(storages.values())
    loss.backward()
    return total


def report_memory(device: torch.device) -> None:
    """Print the memory of a float32 step, relative to no dropout."""
    arms = make_arms(device, channels_last=False)
    batch = make_batch(device)
    rows, first, first_peak = [], 0, 0
    for arm in arms:
        kept = kept_bytes(arm.model, *batch)
        first = first or kept
        row = [arm.name, f"{kept / 2**20:.1f}", f"{kept / first:.3f}"]
        if device.type == "cuda":
            step = training_step(arm.model, *batch, half=False)
            step()
            torch.cuda.reset_peak_memory_stats(device)
            step()
            peak = torch.cuda.max_memory_allocated(device)
            first_peak = first_peak or peak
            row += [f"{peak / 2**20:.1f}", f"{peak / first_peak:.3f}"]
        rows.append(row)
    print("Memory that a step saves for its backward pass (float32)\n")
    peaks = ["peak MiB", "/ no dropout"] if device.type == "cuda" else []
    print_table(["method", "MiB", "/ no dropout", *peaks], rows)


def describe(device: torch.device) -> str:
    """Return the machine and the versions of the libraries."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    return f"{card}, one thread; {versions}, Python {platform.python_version()}"


def processor() -> str:
    """Return the name of the CPU."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="number of rounds of eight steps per method")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--only", choices=["steps", "own", "rates", "epoch", "memory"], help="print one of the tables only"
    )
    options = parser.parse_args()
    if "GLIBC_TUNABLES" not in os.environ:
        os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": KEEP_MEMORY})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    device = torch.device(options.device)
    reports: dict[str, Callable[[], None]] = {
        "steps": lambda: report_steps(device, options.rounds),
        "own": lambda: report_own(device, options.rounds),
        "rates": lambda: report_rates(device),
        "epoch": lambda: report_epoch(device),
        "memory": lambda: report_memory(device),
    }
    print(describe(device) + "\n")
    for name, report in reports.items():
        if options.only in (None, name):
            report()


if __name__ == "__main__":
    main()
