"""Trials per hour: a study of dropopt beside what one would write, and beside the least that one could write.

    python -m tests.benchmarks.throughput
    python -m tests.benchmarks.throughput --only pruning     12 minutes; what pruning saves, and costs in quality

The same 5,000 images of Fashion-MNIST, network, batch size and epochs in each of three arms:

    example   the pattern of Optuna's PyTorch example: torchvision data set, DataLoader with ToTensor and Normalize,
              float32, nn.Dropout2d, one process of two threads
    bare      preloaded tensors, channels_last, bf16 autocast, nn.Dropout2d, one thread in each of two processes
    dropopt   a study with storage, reports and the whole engine (channel pattern) at the same places, two slots

Arms take turns; a ratio is the median over rounds of the ratio within a round. Starting processes and loading data
is left out of all three.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dropopt.config import Baseline, DataConfig, EngineConfig, ModelConfig, RunConfig, TrainConfig
from tests.benchmarks.engine import describe, print_table

DATA = DataConfig(name="fashion-mnist", subset=5000)
MODEL = ModelConfig(name="small")
EPOCHS = 4
BATCH = 128
#: Trials of an arm in a round; even, as two processes share them, and enough that slots need not start as one.
TRIALS = 8


def network(seed: int = 0) -> nn.Module:
    """The reference CNN, as all arms train it."""
    from dropopt.training import build_model

    return build_model(MODEL, channels=1, classes=10, image_size=28, seed=seed)


def with_dropout2d(model: nn.Module) -> nn.Module:
    """torch's own dropout at the places that the engine takes."""
    import dropopt

    dropopt.attach(model, Baseline(kind="dropout2d", p=0.25), example=torch.zeros(2, 1, 28, 28))
    return model


def optimizer_of(model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)


# -- what one would write


def example(trials: int) -> float:
    """Seconds for ``trials`` in the pattern of Optuna's example, in a process of its own."""
    return _in_processes(_example, 1, trials)[0]


def _example(trials: int, barrier: Any) -> float:
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.transforms.functional import to_pil_image

    torch.set_num_threads(2)
    data = _data()
    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.286,), (0.353,))])

    class Images(torch.utils.data.Dataset[Any]):
        """Like torchvision's FashionMNIST: bytes in memory, a PIL image and its transform at each access."""

        def __init__(self, split: Any) -> None:
            low, high = split.images.amin(), split.images.amax()
            self.images = ((split.images[:, 0] - low) / (high - low) * 255).byte()
            self.labels = split.labels.tolist()

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return normalise(to_pil_image(self.images[index])), self.labels[index]

    train = DataLoader(Images(data.train), batch_size=BATCH, shuffle=True)
    validation = DataLoader(Images(data.validation), batch_size=BATCH)
    barrier.wait()
    began = time.perf_counter()
    for trial in range(trials):
        model = with_dropout2d(network(trial))
        optimizer, scheduler = optimizer_of(model, EPOCHS * len(train))
        for _ in range(EPOCHS):
            model.train()
            for images, labels in train:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
                scheduler.step()
            model.eval()
            with torch.no_grad():
                _right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in validation)
    return time.perf_counter() - began


# -- the least that one could write


def bare(trials: int) -> float:
    """Seconds for ``trials`` of a bare loop, shared by two processes of one thread."""
    return max(_in_processes(_bare, 2, trials // 2))


def _bare(trials: int, barrier: Any) -> float:
    torch.set_num_threads(1)
    data = _data()
    train = data.train.images.contiguous(memory_format=torch.channels_last), data.train.labels
    validation = data.validation.images.contiguous(memory_format=torch.channels_last), data.validation.labels
    count = len(train[1])
    steps = -(-count // BATCH)
    barrier.wait()
    began = time.perf_counter()
    for trial in range(trials):
        model = with_dropout2d(network(trial)).to(memory_format=torch.channels_last)
        optimizer, scheduler = optimizer_of(model, EPOCHS * steps)
        for _ in range(EPOCHS):
            model.train()
            for index in torch.randperm(count).split(BATCH):
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(train[0][index])
                loss = F.cross_entropy(logits.float(), train[1][index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
            model.eval()
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                logits = torch.cat([model(part) for part in validation[0].split(1000)]).float()
                F.cross_entropy(logits, validation[1]).item()
    return time.perf_counter() - began


# -- ours


def run_study(study: Any, options: dict[str, Any], folder: str) -> tuple[Any, float]:
    """Run it with two slots: the study that Optuna holds, and seconds from its first trial to the end of its last."""
    import optuna

    from dropopt.study import session

    study = session.override(study, options)
    storage = f"sqlite:///{folder}/study.db"
    with contextlib.redirect_stdout(io.StringIO()):  # its own summary would hide the table
        session.run(study, Path(__file__), storage, 2, "")
    held = optuna.load_study(study_name=study.name, storage=storage)
    done = held.get_trials(deepcopy=False)
    return held, (max(t.datetime_complete for t in done) - min(t.datetime_start for t in done)).total_seconds()


def dropopt(trials: int) -> float:
    """Seconds from the first trial's start to the last one's end."""
    from dropopt.study import Study

    recipe = {"epochs": EPOCHS, "batch_size": BATCH, "amp": "bf16", "channels_last": True}
    study = Study(name="benchmark", data=DATA, model=MODEL, train=recipe, engine={"pattern": "channel"}, pruner="none")
    with tempfile.TemporaryDirectory() as folder:
        space = Path(folder, "space.yaml")
        space.write_text("engine:\n  r0: {low: 0.2, high: 0.3}\n  allocation: [uniform, importance]\n")
        return run_study(study, {"space": str(space), "n_trials": trials}, folder)[1]


# -- measuring


def _data() -> Any:
    from dropopt.training import load_data

    return load_data(DATA)


def _in_processes(work: Any, processes: int, *arguments: Any) -> list[float]:
    context = multiprocessing.get_context("spawn")
    barrier = context.Manager().Barrier(processes)
    with context.Pool(processes) as pool:
        return pool.starmap(work, [(*arguments, barrier)] * processes, chunksize=1)


def report_trials(rounds: int) -> None:
    """Trials per hour of the three arms."""
    seconds: dict[str, list[float]] = {"example": [], "bare": [], "dropopt": []}
    for _ in range(rounds):
        for name, arm in (("example", example), ("bare", bare), ("dropopt", dropopt)):
            seconds[name].append(arm(TRIALS))
    rows = []
    for name, values in seconds.items():
        pairs = {
            other: statistics.median(b / a for a, b in zip(values, seconds[other], strict=True)) for other in seconds
        }
        rate = 3600 * TRIALS / statistics.median(values)
        rows.append([name, f"{rate:.0f}", f"{pairs['example']:.2f}", f"{pairs['bare']:.2f}"])
    print(f"\n{TRIALS} trials of {EPOCHS} epochs, {rounds} rounds\n")
    print_table(["arm", "trials per hour", "times example", "times bare"], rows)


def report_augmentation(rounds: int) -> None:
    """What shift, flip and cutout add to an epoch, and the memory that training takes."""
    from dropopt.training import fit

    torch.set_num_threads(1)
    data = _data()
    arms = {
        "none": (),
        "shift": ("shift",),
        "flip": ("flip",),
        "cutout": ("cutout",),
        "all": ("shift", "flip", "cutout"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, augment in arms.items():
            config = TrainConfig(epochs=2, batch_size=BATCH, amp="bf16", channels_last=True, augment=augment)
            began = time.process_time()
            fit(network(), None, data, config)
            if turn:
                seconds[name].append(time.process_time() - began)
    rows = [
        [name, f"{statistics.median(a / b for a, b in zip(values, seconds['none'], strict=True)):.3f}"]
        for name, values in seconds.items()
    ]
    print(f"\nprocessor time of two epochs, {rounds} rounds\n")
    print_table(["augmentation", "times none"], rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory of this process: {peak:.2f} GiB")


def report_pruning(name: str, rounds: int, seeds: int, pruners: Sequence[str]) -> None:
    """Epochs and time that pruning saves a shipped study, and the best configuration of each on fresh seeds."""
    from dropopt.study.definition import load

    study, _ = load(name)
    rows, epochs, seconds = [], {}, {}
    for seed in range(rounds):
        for pruner in pruners:
            with tempfile.TemporaryDirectory() as folder:
                held, seconds[pruner] = run_study(study, {"pruner": pruner, "seed": seed}, folder)
                epochs[pruner] = sum(len(t.intermediate_values) for t in held.get_trials(deepcopy=False))
                best = held.best_trial
            again = [retrained(best.user_attrs["config"], fresh) for fresh in range(seeds)]
            mean, error = statistics.mean(again), statistics.stdev(again) / len(again) ** 0.5
            saved = [f"{1 - spent[pruner] / spent['none']:.2f}" for spent in (epochs, seconds)]
            rows.append([f"{pruner}, seed {seed}", str(epochs[pruner]), *saved, f"{mean:.4f} ({error:.4f})"])
    print(f"\n{name}: {study.n_trials} trials of up to {study.train.epochs} epochs; best on {seeds} fresh seeds\n")
    print_table(["pruner", "epochs", "epochs saved", "time saved", "loss re-trained (error)"], rows)


def retrained(config: dict[str, Any], seed: int) -> float:
    """Smoothed validation loss of a configuration with another seed."""
    from dropopt.training import train_run

    run = RunConfig.parse(copy.deepcopy(config))
    run = run.model_copy(update={"train": run.train.model_copy(update={"seed": 10_000 + seed})})
    assert isinstance(run.engine, EngineConfig)
    torch.set_num_threads(1)
    return train_run(run)[0].smoothed_loss


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["trials", "augmentation", "pruning"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--study", default="digits", help="shipped study, for pruning")
    parser.add_argument("--seeds", type=int, default=5, help="of the best configuration, for pruning")
    parser.add_argument("--pruners", nargs="+", default=["median", "percentile", "forecast"], help="beside none")
    options = parser.parse_args()
    print(describe(torch.device("cpu")))
    if options.only in (None, "trials"):
        report_trials(options.rounds)
    if options.only in (None, "augmentation"):
        report_augmentation(options.rounds)
    if options.only == "pruning":
        report_pruning(options.study, options.rounds, options.seeds, ["none", *options.pruners])


if __name__ == "__main__":
    main()
