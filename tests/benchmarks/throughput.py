"""Trials per hour of a dropopt study, compared with Optuna's example and with a minimal training loop.

    python -m tests.benchmarks.throughput                    trials per hour, and the cost of augmentation
    python -m tests.benchmarks.throughput --only trials      7 minutes
    python -m tests.benchmarks.throughput --only pruning     12 minutes; what pruning saves, and the quality it costs
    python -m tests.benchmarks.throughput --only search      40 minutes a round; a search with and without dropopt
    python -m tests.benchmarks.throughput --only slots       4 minutes; what a second slot adds

Three arms use the same 5,000 images of Fashion-MNIST (4,000 for training), network, batch size and number of epochs:

    example   the pattern of Optuna's PyTorch example: torchvision data set, DataLoader with ToTensor and Normalize,
              float32, nn.Dropout2d, one process of two threads
    bare      preloaded tensors, channels_last, bf16 autocast, nn.Dropout2d, two processes of one thread each
    dropopt   a study with storage, reports and the engine (channel pattern) at the same places, two slots

The arms take turns. A ratio is the median over rounds of the ratio within a round. Times exclude starting processes and
loading data.
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

from dropopt.config import Baseline, DataConfig, ModelConfig, RunConfig, TrainConfig
from tests.benchmarks import slots
from tests.benchmarks.engine import describe, print_table

DATA = DataConfig(name="fashion-mnist", subset=5000)
MODEL = ModelConfig(name="small")
EPOCHS = 4
BATCH = 128
#: Of a whole search: the number of trials, the epochs of a trial, and the ranges of the two parameters.
SEARCH_TRIALS, SEARCH_EPOCHS = 60, 12
RATES, LEARNING_RATES = (0.0, 0.6), (0.01, 0.5)
#: Trials of an arm in a round: even, since two processes share them, and enough that the start of slots has no effect.
TRIALS = 8


def network(seed: int = 0) -> nn.Module:
    """The reference CNN, which all arms train."""
    from dropopt.training import build_model

    return build_model(MODEL, channels=1, classes=10, image_size=28, seed=seed)


def with_dropout2d(model: nn.Module, p: float = 0.25) -> nn.Module:
    """``model`` with torch's Dropout2d at the places that the engine would use."""
    import dropopt

    dropopt.attach(model, Baseline(kind="dropout2d", p=p), example=torch.zeros(2, 1, 28, 28))
    return model


def optimizer_of(model: nn.Module, steps: int, lr: float = 0.1) -> tuple[torch.optim.Optimizer, Any]:
    """SGD and a one-cycle schedule over ``steps``."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)


# -- the pattern of Optuna's example


def example(trials: int) -> float:
    """Seconds for ``trials`` in the pattern of Optuna's example, in one process."""
    return _in_processes(_example, 1, trials)[0]


def _example(trials: int, barrier: Any) -> float:
    train, validation = _loaders()
    barrier.wait()
    began = time.perf_counter()
    for trial in range(trials):
        _example_trial(with_dropout2d(network(trial)), train, validation, EPOCHS)
    return time.perf_counter() - began


def _loaders() -> tuple[Any, Any]:
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.transforms.functional import to_pil_image

    torch.set_num_threads(2)
    data = _data()
    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.286,), (0.353,))])

    class Images(torch.utils.data.Dataset[Any]):
        """Like torchvision's FashionMNIST: bytes in memory; each access makes a PIL image and transforms it."""

        def __init__(self, split: Any) -> None:
            low, high = split.images.amin(), split.images.amax()
            self.images = ((split.images[:, 0] - low) / (high - low) * 255).byte()
            self.labels = split.labels.tolist()

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return normalise(to_pil_image(self.images[index])), self.labels[index]

    train = DataLoader(Images(data.train), batch_size=BATCH, shuffle=True)
    return train, DataLoader(Images(data.validation), batch_size=BATCH)


def _example_trial(model: nn.Module, train: Any, validation: Any, epochs: int, lr: float = 0.1) -> float:
    """Train one trial and return its validation loss after the last epoch."""
    optimizer, scheduler = optimizer_of(model, epochs * len(train), lr)
    loss = 0.0
    for _ in range(epochs):
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.no_grad():
            losses = [F.cross_entropy(model(x), y, reduction="sum").item() for x, y in validation]
        loss = sum(losses) / len(validation.dataset)
    return loss


def _example_search(trials: int, seed: int, barrier: Any) -> tuple[float, dict[str, float]]:
    """Seconds that a search without pruning takes, and the parameters of its best trial."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    train, validation = _loaders()
    barrier.wait()

    def objective(trial: Any) -> float:
        p, lr = trial.suggest_float("p", *RATES), trial.suggest_float("lr", *LEARNING_RATES, log=True)
        model = with_dropout2d(network(1000 * seed + trial.number), p)
        return _example_trial(model, train, validation, SEARCH_EPOCHS, lr)

    began = time.perf_counter()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    return time.perf_counter() - began, study.best_params


# -- a minimal training loop


def bare(trials: int) -> float:
    """Seconds for ``trials`` of a minimal training loop, shared by two processes of one thread each."""
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


# -- a study of dropopt


def run_study(study: Any, options: dict[str, Any], folder: str) -> tuple[Any, float]:
    """Run a study with two slots.

    Returns:
        The Optuna study, and the seconds from the start of its first trial to the end of its last.
    """
    import optuna

    from dropopt.study.command.overrides import Overrides
    from dropopt.study.session import session
    from dropopt.study.session.request import Request

    study = Overrides(**options).apply(study)
    storage = f"sqlite:///{folder}/study.db"
    with contextlib.redirect_stdout(io.StringIO()):  # the study's summary
        session.run(Request(study, Path(__file__), storage, 2, ""))
    held = optuna.load_study(study_name=study.name, storage=storage)
    done = held.get_trials(deepcopy=False)
    return held, (max(t.datetime_complete for t in done) - min(t.datetime_start for t in done)).total_seconds()


def dropopt(trials: int) -> float:
    """Seconds for ``trials`` of a study, from the start of the first trial to the end of the last."""
    from dropopt.study import Study

    recipe = {"epochs": EPOCHS, "batch_size": BATCH, "amp": "bf16", "channels_last": True}
    study = Study(
        name="benchmark",
        data=DATA,
        model=MODEL,
        train=recipe,
        engine={"pattern": "channel"},
        pruner="none",
        anchors=False,
    )
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
    """Print the trials per hour of the three arms."""
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
    print(f"\n{TRIALS} trials of {EPOCHS} epochs; medians of {rounds} rounds\n")
    print_table(["arm", "trials per hour", "relative to example", "relative to bare"], rows)


def report_augmentation(rounds: int) -> None:
    """Print the cost of shift, flip and cutout, and the peak memory of training."""
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
    print(f"\nProcessor time of two epochs; medians of {rounds} rounds\n")
    print_table(["augmentation", "relative to none"], rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nPeak memory of this process: {peak:.2f} GiB")


def report_pruning(name: str, rounds: int, seeds: int, pruners: Sequence[str]) -> None:
    """Print what pruning saves in the study ``name``.

    The best configuration of each search is trained again with ``seeds`` fresh seeds.
    """
    from dropopt.study.define.script import load

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
    print(
        f"\n{name}: {study.n_trials} trials of up to {study.train.epochs} epochs; "
        f"the best of each search trained again with {seeds} fresh seeds\n"
    )
    print_table(["pruner", "epochs", "epochs saved", "time saved", "mean loss (standard error)"], rows)


def report_search(rounds: int, seeds: int, pruner: str) -> None:
    """Print the time and the result of two searches of a Dropout2d rate and a learning rate.

    One follows Optuna's example and does not prune; the other is a study of dropopt with ``pruner``.
    """
    from dropopt.study import Study

    recipe = {"epochs": SEARCH_EPOCHS, "batch_size": BATCH, "amp": "bf16", "channels_last": True}
    study = Study(name="search", data=DATA, model=MODEL, train=recipe, sampler="tpe", anchors=False)
    low, high = RATES
    slow, fast = LEARNING_RATES
    lr = f"{{low: {slow}, high: {fast}, log: true}}"
    space = f"engine:\n  kind: dropout2d\n  p: {{low: {low}, high: {high}}}\ntrain:\n  lr: {lr}\n"
    rows = []
    for seed in range(rounds):
        theirs, best = _in_processes(_example_search, 1, SEARCH_TRIALS, seed)[0]
        run = RunConfig(data=DATA, model=MODEL, engine=Baseline(kind="dropout2d", p=best["p"]), train=recipe)
        run = run.model_copy(update={"train": run.train.model_copy(update={"lr": best["lr"]})})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "space.yaml")
            path.write_text(space)
            options = {"space": str(path), "n_trials": SEARCH_TRIALS, "seed": seed, "pruner": pruner}
            held, ours = run_study(study, options, folder)
        for name, spent, config in (
            ("example", theirs, run.model_dump(mode="json")),
            (f"dropopt, {pruner}", ours, held.best_trial.user_attrs["config"]),
        ):
            losses = [retrained(config, fresh) for fresh in range(seeds)]
            mean, error = statistics.mean(losses), statistics.stdev(losses) / len(losses) ** 0.5
            rows.append([f"{name}, seed {seed}", f"{spent:.0f}", f"{theirs / spent:.1f}", f"{mean:.4f} ({error:.4f})"])
    print(
        f"\n{SEARCH_TRIALS} trials of up to {SEARCH_EPOCHS} epochs; "
        f"the best of each search trained again with {seeds} fresh seeds\n"
    )
    print_table(["search", "seconds", "speed-up", "mean loss (standard error)"], rows)


def retrained(config: dict[str, Any], seed: int) -> float:
    """Smoothed validation loss of a configuration, trained with a seed that no study uses."""
    from dropopt.training import train_run

    run = RunConfig.parse(copy.deepcopy(config))
    run = run.model_copy(update={"train": run.train.model_copy(update={"seed": 10_000 + seed})})
    torch.set_num_threads(1)
    return train_run(run)[0].smoothed_loss


def main() -> None:
    """Read the options and print the reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = ["trials", "augmentation", "pruning", "search", "slots"]
    parser.add_argument("--only", choices=choices, help="one report; default: trials and augmentation")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; pruning and search: seeds of the study")
    parser.add_argument("--study", default="digits", help="the shipped study that the report on pruning runs")
    parser.add_argument("--seeds", type=int, default=5, help="seeds with which the best configuration is trained again")
    parser.add_argument(
        "--pruners",
        nargs="+",
        default=["median", "percentile", "forecast"],
        help="pruners to compare with none; the report on a whole search uses the last of them",
    )
    options = parser.parse_args()
    print(describe(torch.device("cpu")))
    if options.only in (None, "trials"):
        report_trials(options.rounds)
    if options.only in (None, "augmentation"):
        report_augmentation(options.rounds)
    if options.only == "slots":
        slots.report(options.rounds)
    if options.only == "search":
        report_search(options.rounds, options.seeds, options.pruners[-1])
    if options.only == "pruning":
        report_pruning(options.study, options.rounds, options.seeds, ["none", *options.pruners])


if __name__ == "__main__":
    main()
