"""Attaching and detaching: arguments are checked, and neither leaves a trace in the model."""

import copy
import gc
import pickle
import re
import weakref
from typing import get_args

import pytest
import torch
from residual_net import EXAMPLE, Net, assert_same, snapshot
from small_net import every_config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import dropopt
from dropopt.config import Allocation, Baseline, ConfigError, EngineConfig, Pattern
from dropopt.engine.places.find import survey


def test_the_argument_overrides_the_setting():
    """``sites=`` overrides ``config.sites``, for the engine and for baselines."""
    for config in (EngineConfig(sites="conv"), Baseline(kind="dropout2d", sites="conv")):
        with dropopt.attach(Net(), config, example=EXAMPLE, complexity=0.5) as engine:
            assert list(engine.sites) == ["stem", "blocks.0.conv", "blocks.1.conv"]
        with dropopt.attach(Net(), config, example=EXAMPLE, complexity=0.5, sites="last:1") as engine:
            assert list(engine.sites) == ["blocks.1"]


PROBED = ("statistical", "gradient", "composite")
NO_EXAMPLE = "example must be a tensor, such as torch.stack(images), or a tuple or dictionary of tensors"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet18"}, "model must be a torch.nn.Module, got str"),
        (
            {"config": {"r0": 0.3}},
            "config must be a dropopt.EngineConfig or dropopt.Baseline, such as dropopt.load(FILE).engine, got dict",
        ),
        ({"example": (3, 32, 32)}, f"{NO_EXAMPLE}, got int"),
        ({"example": [EXAMPLE]}, f"{NO_EXAMPLE}, got list"),
    ],
)
def test_arguments_of_another_type_are_refused(arguments, message):
    """One line says what was given and what is allowed."""
    given = {"model": Net(), "config": EngineConfig(), "example": EXAMPLE} | arguments
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        dropopt.attach(given["model"], given["config"], example=given["example"], complexity=0.5)


TAKEN = (
    r"^module '[\w.]+' already has dropout of dropopt: call engine\.detach\(\), or dropopt\.detach\(model\) if the "
    r"engine was not kept or the model is a copy$"
)


def test_a_place_takes_one_engine_at_a_time():
    """A second engine at a place is refused; at another place, or after detach(), it is allowed."""
    for first, second in ((EngineConfig(), Baseline(kind="dropout")), (Baseline(kind="dropout"), EngineConfig())):
        model = Net()
        engine = dropopt.attach(model, first, example=EXAMPLE, complexity=0.5, sites="norm")
        with pytest.raises(ConfigError, match=TAKEN):
            dropopt.attach(model, second, example=EXAMPLE, complexity=0.5, sites="norm")
        dropopt.attach(model, second, example=EXAMPLE, complexity=0.5, sites="hidden").detach()
        engine.detach()
        dropopt.attach(model, second, example=EXAMPLE, complexity=0.5, sites="norm")


@every_config
def test_a_model_that_has_lost_its_engine_takes_another_after_detach(config):
    """``dropopt.detach`` removes the dropout from a copy, and from a model whose engine nobody has kept."""
    model = Net()
    before, lost = snapshot(model), copy.deepcopy(model)
    del before["identity"]
    engine = dropopt.attach(model, config, example=EXAMPLE, complexity=0.5)
    copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    dropopt.attach(lost, config, example=EXAMPLE, complexity=0.5)
    gc.collect()
    for other in (*copies, lost):
        with pytest.raises(ConfigError, match=TAKEN):
            dropopt.attach(other, config, example=EXAMPLE, complexity=0.5)
        dropopt.detach(other)
        assert_same(before, snapshot(other))
        assert not any("__prepare_scriptable__" in vars(module) for module in other.modules())
        dropopt.attach(other, config, example=EXAMPLE, complexity=0.5)
    engine.step(epoch=1, epochs=2)  # which raises if its hooks are gone


def test_a_copy_that_has_its_engine_is_detached_by_it():
    """The copied engine takes its own hooks away."""
    model = Net()
    engine = dropopt.attach(model, EngineConfig(), example=EXAMPLE, complexity=0.5)
    for twin, other in (copy.deepcopy((model, engine)), pickle.loads(pickle.dumps((model, engine)))):
        with pytest.raises(ConfigError, match=TAKEN):
            dropopt.attach(twin, EngineConfig(), example=EXAMPLE, complexity=0.5)
        other.detach()
        dropopt.attach(twin, EngineConfig(), example=EXAMPLE, complexity=0.5)


def test_an_engine_that_exists_is_detached_as_by_its_own_method():
    """The model's own dropout that it has switched off comes back, and the optimizer loses its hooks."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(2))
    model(EXAMPLE)
    config = EngineConfig(drop_updates=True)
    engine = dropopt.attach(model, config, example=EXAMPLE, complexity=0.5, inside="replace")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine.watch(optimizer)
    assert model[1].p == 0
    dropopt.detach(model)
    assert model[1].p == 0.5
    assert not optimizer._optimizer_step_pre_hooks
    assert repr(engine).endswith(", detached)")


def test_detach_of_a_model_without_an_engine_is_an_error():
    """It has nothing to remove, so that another model was probably meant."""
    for model, said in ((Net(), "Net has no dropout of dropopt to detach"), ("resnet18", "model must be a torch.nn")):
        with pytest.raises(ConfigError, match=f"^{said}"):
            dropopt.detach(model)


@every_config
def test_a_model_on_the_meta_device_gets_its_values_later(config):
    """It can have an engine before ``to_empty``, whose rates are known at once and stay as they are."""
    with torch.device("meta"):
        model = Net()
        engine = dropopt.attach(model, config, example=EXAMPLE, complexity=0.5)
    with engine:
        rates = engine.rates()
        assert all(row["applied"] > 0.1 for row in rates)
        model.to_empty(device="cpu").load_state_dict(Net().state_dict())
        assert not torch.equal(model(EXAMPLE), model(EXAMPLE))
        assert engine.rates() == rates
        engine.step(epoch=1, epochs=2)


@pytest.mark.parametrize(
    ("pattern", "importance"),
    [*((pattern, "taylor") for pattern in get_args(Pattern)), *(("channel", kind) for kind in PROBED)],
)
def test_the_default_device_may_be_another_than_the_model_s(pattern, importance):
    """The same numbers are drawn as without it; the meta device, which has no numbers, stands for any other."""
    draws = []
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), *head)
        config = EngineConfig(pattern=pattern, importance=importance, allocation="importance", drop_updates=True)
        engine = dropopt.attach(model, config, example=EXAMPLE, complexity=0.5)
        with torch.device(device):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            engine.watch(optimizer)
            model(EXAMPLE).square().mean().backward()
            optimizer.step()
            engine.probe(EXAMPLE, torch.zeros(len(EXAMPLE), dtype=torch.int64, device="cpu"))
            engine.step(epoch=1, epochs=2, train_loss=1.0, val_loss=1.1, val_accuracy=0.5)
            draws.append(model(EXAMPLE))
    assert torch.equal(*draws)


@pytest.mark.parametrize("allocation", get_args(Allocation))
@pytest.mark.parametrize("pattern", ["channel", "structured", "own"])
def test_the_numbers_of_a_site_stay_on_its_device(monkeypatch, pattern, allocation):
    """A step moves none to the host, where others could not be combined with them. Fake tensors stand for a GPU."""
    config = EngineConfig(pattern=pattern, allocation=allocation, importance="statistical")
    with dropopt.attach(Net(), config, example=EXAMPLE, complexity=0.5) as engine, FakeTensorMode():
        for name, value in (("__bool__", True), ("__float__", 0.5), ("argmax", 0)):  # they have no values
            monkeypatch.setattr(FakeTensor, name, lambda _, value=value: value)
        for site in engine.sites.values():
            for name, buffer in site.named_buffers():
                setattr(site, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))
        engine.step(epoch=1, epochs=2)
        assert {buffer.device.type for site in engine.sites.values() for buffer in site.buffers()} == {"cuda"}


# -- no trace


@pytest.mark.parametrize("training", [True, False])
def test_attaching_and_detaching_leave_the_model_bit_identical(training):
    """Weights, statistics, keys, classes, training flags, .grad, hooks and the random state do not change."""
    model, config = Net().train(training), EngineConfig(allocation="feature")
    model.blocks[0].norm.eval()  # a frozen BatchNorm inside a model that trains
    example = EXAMPLE.clone()
    before = snapshot(model)
    with dropopt.attach(model, config, example=example, complexity=0.5, sites=("norm", "block")):
        hooked = {name for name, found in snapshot(model)["hooks"].items() if found != before["hooks"][name]}
        assert hooked == {"stem_norm", "blocks.0", "blocks.0.norm", "blocks.1", "blocks.1.norm"}
    assert_same(before, snapshot(model))
    assert torch.equal(example, EXAMPLE)
    assert not example.requires_grad


def test_attaching_calls_no_method_that_changes_modes():
    """loralib's layers add their updates to the weights in eval(): they would get no gradients afterwards."""

    class Merging(nn.Conv2d):
        def train(self, mode=True):
            """Change the weights."""
            self.weight.data += 1
            return super().train(mode)

    model = nn.Sequential(Merging(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    before = model[0].weight.clone()
    with dropopt.attach(model, EngineConfig(importance="gradient"), example=EXAMPLE, complexity=0.5) as engine:
        engine.probe(EXAMPLE, torch.zeros(len(EXAMPLE), dtype=torch.int64))
        with engine.sampling():
            model(EXAMPLE)
    assert torch.equal(model[0].weight, before)


@every_config
def test_hooks_of_the_user_stay(config):
    """Plain functions that are hooks of the same modules run while an engine is attached, and after it."""
    model, seen = Net().train(), []
    for module in model.modules():
        module.register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    engine = dropopt.attach(model, config, example=EXAMPLE, complexity=0.5, sites="norm")
    engine.step(epoch=1, epochs=2)
    engine.detach()
    engine.detach()  # twice is as once
    assert [len(module._forward_hooks) for module in model.modules()] == [1] * len(list(model.modules()))
    with dropopt.attach(model, config, example=EXAMPLE, complexity=0.5, sites="norm"):
        seen.clear()
        model(EXAMPLE)
    assert seen.count("BatchNorm2d") == 3


def test_a_model_is_freed_at_once():
    """Nothing that attaching made refers to itself: the pass on the example would wait for the garbage collector."""
    model, alive = Net(), []
    gc.disable()
    try:
        for module in model.modules():
            module.register_forward_hook(lambda module, args, output: alive.append(weakref.ref(output)))
        dropopt.attach(model, EngineConfig(), example=EXAMPLE, complexity=0.5)
        assert alive
        assert not any(output() is not None for output in alive)
    finally:
        gc.enable()


def test_a_failing_forward_leaves_no_trace():
    """Hooks are removed and flags restored when the example does not fit, or when training raises."""
    model = Net().train()
    before = snapshot(model)
    with pytest.raises(RuntimeError):
        survey(model, "auto", torch.zeros(2, 5, 8, 8))
    with pytest.raises(KeyError), dropopt.attach(model, EngineConfig(), example=EXAMPLE, complexity=0.5):
        raise KeyError
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("config", [EngineConfig(pattern="spatial", sites="norm"), Baseline(kind="none")])
def test_attaching_leaves_the_random_state(config):
    """Even if the model draws in its forward pass."""

    class Noisy(Net):
        def forward(self, x):
            return super().forward(x + torch.rand_like(x))

    model, before = Noisy(), torch.get_rng_state()
    dropopt.attach(model, config, example=EXAMPLE, complexity=0.5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_attaching_works_in_every_mode(mode):
    """Without gradients, and in inference mode, the same places are found, and training can follow."""
    config = EngineConfig(pattern="own", w_spatial=0.2)
    model = Net().train()
    with mode():
        engine = dropopt.attach(model, config, example=EXAMPLE.clone(), complexity=0.5)
    assert list(engine.sites) == ["blocks.0", "blocks.1"]
    model(EXAMPLE).sum().backward()
    engine.step(epoch=1, epochs=2)
    assert all(site.refreshes == 1 for site in engine.sites.values())


# -- complexity of the data


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_an_example_of_another_precision_is_converted(dtype):
    """A batch of the loader serves where a framework converts each batch to the type of the network."""
    with dropopt.attach(Net().to(dtype), EngineConfig(), example=EXAMPLE, complexity=0.5) as engine:
        assert engine.sites
    assert EXAMPLE.dtype == torch.float32


def test_a_missing_complexity_is_a_warning_where_it_matters():
    """Without complexity there is a warning if the contextual member has a weight, and none otherwise."""
    message = r"^attach\(\) was called without the complexity of the data.*complexity=.*measure_complexity\(train_"
    with pytest.warns(UserWarning, match=message) as warned:
        engine = dropopt.attach(Net(), EngineConfig(w_contextual=(0, 0, 0.1)), example=EXAMPLE)
    assert engine.complexity == 0.5
    assert warned[0].filename == __file__  # where the user called attach()
    for complexity in (0, 1):
        assert dropopt.attach(Net(), EngineConfig(), example=EXAMPLE, complexity=complexity).complexity == complexity
    for config in (EngineConfig(w_contextual=0), Baseline(kind="dropout")):
        dropopt.attach(Net(), config, example=EXAMPLE)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-0.1, r"in \[0, 1\], got -0.1"), (1.5, r"in \[0, 1\], got 1.5"), ("high", "a number, got 'high'")],
)
def test_an_invalid_complexity_is_refused(value, shown):
    """A complexity that is not a number in [0, 1] is an error."""
    with pytest.raises(ValueError, match=f"^complexity must be {shown}$"):
        dropopt.attach(Net(), EngineConfig(), example=EXAMPLE, complexity=value)


@every_config
def test_an_engine_that_was_detached_makes_no_step(config):
    """Training would go on without dropout, unnoticed. Its rates and its state can still be read, for a new engine."""
    model = Net()
    engine = dropopt.attach(model, config, example=EXAMPLE, complexity=0.5)
    engine.step(epoch=1, epochs=4, val_loss=1.0)
    engine.detach()
    told = (
        "detach() has removed the dropout: to train on with it, call dropopt.attach(model, ...) again and load the "
        "state_dict() from before; to train on without it, leave out step"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}$"):
        engine.step(epoch=2, epochs=4, val_loss=1.0)
    again = dropopt.attach(model, config, example=EXAMPLE, complexity=0.5)
    again.load_state_dict(engine.state_dict())
    assert again.rates() == engine.rates()
    again.step(epoch=2, epochs=4, val_loss=1.0)


@every_config
def test_the_settings_of_an_engine_cannot_be_replaced(config):
    """Places, patterns and scores are made when it is attached, so other settings would hold in part only."""
    engine = dropopt.attach(Net(), config, example=EXAMPLE, complexity=0.5)
    assert engine.config == config
    with pytest.raises(AttributeError, match="config"):
        engine.config = EngineConfig(r0=0.5)


@pytest.mark.parametrize(
    ("example", "described"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"\(2, 3, 8, 8\) of uint8"),
        (torch.zeros(2, 5, 8, 8), r"\(2, 5, 8, 8\) of float32"),
        ((torch.zeros(2, 5, 8, 8),), r"\(2, 5, 8, 8\) of float32"),
    ],
)
def test_an_example_that_the_network_refuses_is_described(example, described):
    """The error is the network's own, which names neither the example nor what it should be."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(RuntimeError) as raised:
        dropopt.attach(model, dropopt.EngineConfig(), example=example)
    (note,) = raised.value.__notes__
    assert re.search(rf"on the example, {described}, .*give a batch as in training", note)
