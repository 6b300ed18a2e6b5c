"""The engine over several epochs against the paper's formulas, written out again with plain numbers."""

import copy

import numpy as np
import pytest
import torch
from slow_engine import SlowEngine
from small_net import Net, batch, equal, make
from torch import nn
from two_ranks import on_two_ranks

import dropopt
from dropopt.config import P_MAX, EngineConfig
from dropopt.engine.importance.probes import PROBES

EPOCHS, STEPS, SAMPLES = 7, 2, 40  # three samples of each step are scored, and two on the second rank

#: Validation loss, training loss and accuracy after each epoch; None where they are not reported.
METRICS = (
    *((2.3, None, None), (1.3, 0.75, None), (0.97, 0.5, 0.55), (0.8, 0.4, 0.6)),
    *((0.2, 0.3, 0.0), (0.0, 0.0, 0.65), (0.2, 0.25, 0.7)),
)
STAGES = {"w_adaptive": (0.5, 0.1, 0.3), "w_contextual": (0.0, 0.4, 0.2), "w_spatial": (0.0, 0.3, 0.2)}
UNUSUAL = {
    "r0": 0.4, "alpha": -0.7, "delta": 3.0, "lambda_loss": 0.9, "theta_depth": 0.5, "theta_epoch": 2.0,
    "complexity_theta": 2.0, "duration_phi": -3.0, "performance_psi": -0.3, "lambda_init": 0.4, "kappa": 2.0,
    "theta": 1.5, "structured_threshold": 0.4, "importance_decay": 0.8, "block_size": 2,
}  # fmt: skip
ADAPTIVE = {"efficacy": "adaptive", "efficacy_step": 0.9, "efficacy_floor": 0.08}
CASES = {
    "spatial": {"pattern": "spatial", "importance": "activation", "w_spatial": 0.15, **ADAPTIVE},
    "stages": {"importance": "taylor", "performance": "ratio", "allocation": "feature", **STAGES, **ADAPTIVE},
    "own": {"pattern": "own", "importance": "statistical", "performance": "loss", **STAGES},
    "own printed": {"pattern": "own", "importance": "activation", "reading": "printed", "w_spatial": 0.3},
    "structured": {"pattern": "structured", "importance": "taylor", "allocation": "feature", "reading": "printed"},
    "importance": {"pattern": "element", "allocation": "importance", "reading": "printed", "w_spatial": 0.2},
    "pfid": {"w_adaptive": 0, "w_structured": 0, "w_contextual": 0, "w_pfid": 1.0},
    "probe": {"pattern": "structured", "allocation": "importance", "importance": "gradient"},
}


def found_in(engine):
    """The row of each site, and the rates of its features."""
    rows = {row.pop("site"): row for row in engine.rates()}
    return {
        name.removeprefix("module."): (rows[name], site.p.double().numpy().copy())
        for name, site in engine.sites.items()
    }


def training(config, rank=None):
    """Train a small network and yield what happened: its sites first, then observations, steps, and the rates.

    In the fourth epoch the engine is replaced by a fresh one, which continues from the state of the old one. Of two
    ranks, each reports other losses and another complexity, and only the second one an accuracy.
    """
    torch.manual_seed(0)
    model = Net().train()
    apart = 0.0 if rank is None else 0.2 * rank - 0.1
    network = model if rank is None else nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    seen = {name: {} for name in ("one.norm", "two.norm")}
    for name, values in seen.items():
        model.get_submodule(name).register_forward_hook(
            lambda m, given, y, values=values: values.update(x=y.detach().clone())
        )

    behind = []

    def attach(complexity):
        while behind:
            behind.pop().remove()
        engine = dropopt.attach(network, config, example=batch()[0], complexity=complexity + apart)
        for name, values in seen.items():

            def keep(module, given, masked, values=values):
                masked.register_hook(lambda gradient: values.update(g=gradient.clone()))

            behind.append(model.get_submodule(name).register_forward_hook(keep))
        return engine

    engine = attach(0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine.watch(optimizer)
    torch.manual_seed(rank or 0)  # masks differ between ranks
    yield (
        "sites",
        {name: (row["depth"], len(model.get_submodule(name).weight)) for name, (row, _) in found_in(engine).items()},
    )
    for epoch in range(1, EPOCHS + 1):
        for step in range(1, STEPS + 1):
            images, labels = batch(SAMPLES - 16 * (rank or 0), seed=1000 * (rank or 0) + 10 * epoch + step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            yield "pass", {name: (v["x"].double().numpy(), v["g"].double().numpy()) for name, v in seen.items()}
            if engine.needs_probe:
                with engine.silent():
                    found = PROBES[config.importance](model, engine.places, images[:32], labels[:32])
                yield "probe", {name.removeprefix("module."): value.double().numpy() for name, value in found.items()}
                engine.probe(images, labels)
            if epoch == 4 and rank is None:
                state, random = engine.state_dict(), torch.get_rng_state()
                engine.step(epoch=EPOCHS, epochs=EPOCHS, val_loss=9.0, train_loss=1.0, val_accuracy=0.1)
                engine.detach()
                torch.rand(5)
                engine = attach(0.9)
                engine.load_state_dict(state)
                assert torch.equal(torch.get_rng_state(), random)
                yield "rates", found_in(engine)
            val, train, accuracy = METRICS[epoch - 1] if step == STEPS else (None, None, None)
            done = epoch - 1 + step / STEPS
            engine.step(
                epoch=done,
                epochs=EPOCHS,
                val_loss=None if val is None else val + apart,
                train_loss=None if train is None else train + apart,
                val_accuracy=None if rank == 0 else accuracy,
            )
            yield "step", (done / EPOCHS, val, train, accuracy)
            yield "rates", found_in(engine)
    if rank is not None:
        shared = [copy.deepcopy(engine.state_dict())]
        drawn = torch.rand(4)
        torch.distributed.broadcast_object_list(shared, 0)
        engine.load_state_dict(shared[0])
        yield "end", ([parameter.detach() for parameter in model.parameters()], drawn, torch.rand(4))


def compare(config, *logs):
    """Compare the rates in the logs of all ranks with those of the slow engine; return the number of comparisons."""
    slow, compared = None, 0
    for events in zip(*logs, strict=True):
        kinds, values = zip(*events, strict=True)
        assert len(set(kinds)) == 1
        first = values[0]
        if kinds[0] == "sites":
            slow = SlowEngine(config, first, 0.3, len(logs))
        elif kinds[0] == "pass":
            for rank, value in enumerate(values):
                for name, (x, g) in value.items():
                    slow.observe(name, x, g, rank)
        elif kinds[0] == "probe":
            for name in first:
                slow.remember(name, np.mean([value[name] for value in values], 0))
        elif kinds[0] == "step":
            slow.step(*first)
        else:
            for value in values:
                for name, (row, p) in value.items():
                    assert row == pytest.approx(slow.rows[name], rel=2e-4, abs=1e-7), (compared, name)
                    assert row == first[name][0]
                    expected = slow.p[name] if p.size > 1 else [slow.rows[name]["applied"]]
                    np.testing.assert_allclose(p, expected, rtol=1e-3, atol=1e-6)
                    compared += 1
    return compared


@pytest.mark.parametrize("case", CASES)
def test_a_training_follows_the_paper(case):
    """Scores, safe areas, averages, adaptive weights, every member, the blend and each feature's rate in each step."""
    config = EngineConfig(**UNUSUAL | CASES[case])
    compared = compare(config, list(training(config)))
    assert compared == 2 * (EPOCHS * STEPS + STEPS)


def trainings(rank, configs):
    """What one of two ranks logs, with data of its own; a list for each configuration."""
    return [list(training(config, rank)) for config in configs]


def test_two_ranks_follow_the_paper(tmp_path):
    """Two processes that see and report different numbers average them, and keep equal rates and weights.

    They drop the same updates, although their masks differ. The engine is on the wrapper, which its probes leave as it
    was. From the state of the first rank, only the first one draws the same numbers.
    """
    settings = {"pattern": "structured", "allocation": "importance", "w_spatial": 0.2, "drop_updates": True}
    configs = [EngineConfig(**UNUSUAL, **ADAPTIVE, **settings, importance=kind) for kind in ("statistical", "lrp")]
    configs.append(EngineConfig(**UNUSUAL, **ADAPTIVE, **settings | {"pattern": "own"}, importance="taylor"))
    for config, *logs in zip(configs, *on_two_ranks(trainings, configs, folder=tmp_path), strict=True):
        (weights, drawn, again), (others, _, other) = (log.pop()[1] for log in logs)
        assert compare(config, *logs) == 4 * EPOCHS * STEPS, config.importance
        assert equal(weights, others), config.importance
        assert torch.equal(again, drawn)
        assert not torch.equal(other, again)


def test_no_rate_exceeds_the_largest_one():
    """A blend of 1 is applied as P_MAX, so that the scale stays finite."""
    _, engine = make(EngineConfig(r0=1.0, alpha=0.0, w_structured=0, w_contextual=0, w_pfid=0))
    assert [row["integrated"] for row in engine.rates()] == [1.0] * len(engine.sites)
    assert all(float(site.p) == pytest.approx(P_MAX) for site in engine.sites.values())
