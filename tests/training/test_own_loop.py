"""A training loop of one's own, as the READMEs show it, does what ``dropopt train`` does."""

import math

import pytest
import torch
from torch.nn import functional as F
from toy import CLASSES, network, recipe, toy

import dropopt
from dropopt.config import EngineConfig
from dropopt.randomness import generator, global_stream
from dropopt.training import fit, measure_complexity
from dropopt.training.optim import make_optimizer

EPOCHS, BATCH, SEED = 3, 16, 0
CONFIGS = {
    "default": EngineConfig(r0=0.4),
    "own patterns": EngineConfig(pattern="own", w_spatial=0.25),
    "lrp": EngineConfig(r0=0.4, allocation="importance", importance="lrp"),
    "updates within an epoch": EngineConfig(r0=0.4, allocation="feature", importance="gradient", update_every=4),
    "drop_updates": EngineConfig(r0=0.4, drop_updates=True, efficacy="adaptive", performance="ratio"),
}


def by_fit(config, data):
    """Train with ``fit``; return the losses, rates and weights of each epoch, and the engine's last rates."""
    settings = recipe(epochs=EPOCHS, batch_size=BATCH, schedule="constant", seed=SEED)
    model = network(SEED)
    with dropopt.attach(model, config, example=data.train.images[:2], complexity=data.complexity) as engine:
        result = fit(model, engine, data, settings)
        seen = [(report.train_loss, report.val_loss, report.rates, report.weights) for report in result.history]
        return seen, engine.rates()


def by_own_loop(config, data):
    """The loop of ``dropopt/engine/README.md`` on the same batches."""
    seen = []
    model, settings = network(SEED), recipe(epochs=EPOCHS, batch_size=BATCH, schedule="constant", seed=SEED)
    complexity = measure_complexity(data.train.images, data.train.labels)
    optimizer = make_optimizer(model, settings)
    with (
        global_stream(SEED, "dropout"),
        dropopt.attach(model, config, example=data.train.images[:2], complexity=complexity) as engine,
    ):
        engine.watch(optimizer)
        for epoch in range(EPOCHS):
            order = torch.randperm(len(data.train), generator=generator(SEED, "order", epoch + 1))
            batches = [data.train.take(index) for index in order.split(BATCH)]
            model.train()
            total = 0.0
            for step, batch in enumerate(batches, start=1):
                images, labels = batch.images.contiguous(), batch.labels
                loss = F.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(labels)
                due = engine.update_every and (epoch * len(batches) + step) % engine.update_every == 0
                if due and step < len(batches):
                    engine.probe(images, labels)
                    engine.step(epoch=epoch + step / len(batches), epochs=EPOCHS)
            train_loss = total / len(data.train)
            model.eval()
            with torch.no_grad():
                logits = model(data.validation.images.contiguous())
            val_loss = F.cross_entropy(logits, data.validation.labels).item()
            val_accuracy = (logits.argmax(1) == data.validation.labels).double().mean()
            in_force = engine.rates(), engine.weights()
            engine.probe(images, labels)
            engine.step(
                epoch=epoch + 1, epochs=EPOCHS, train_loss=train_loss, val_loss=val_loss, val_accuracy=val_accuracy
            )
            seen.append((train_loss, val_loss, *in_force))
        return seen, engine.rates()


def numbers(rows):
    """Rates by place and by what they are."""
    return {(row["site"], name): value for row in rows for name, value in row.items() if name != "site"}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_loop_of_the_readme_equals_fit(config):
    data = toy()
    (epochs, rates), (own_epochs, own_rates) = by_fit(config, data), by_own_loop(config, data)
    for (*losses, in_force, weights), (*own_losses, own_in_force, own_weights) in zip(epochs, own_epochs, strict=True):
        assert own_losses == pytest.approx(losses, rel=1e-5)
        assert numbers(own_in_force) == pytest.approx(numbers(in_force), rel=1e-5)
        assert own_weights == pytest.approx(weights, rel=1e-5)
    assert numbers(own_rates) == pytest.approx(numbers(rates), rel=1e-5)
    assert numbers(own_rates) != pytest.approx(numbers(own_in_force), rel=1e-5)


NUMBERS = (
    "measured with class numbers (N,), got torch.{} of shape {} for 4 samples; with other targets give complexity=0.5, "
    "as studies do"
)
BATCHES = (
    "measured on batches (samples, labels) of tensors, such as those of a DataLoader, or on "
    "measure_complexity(samples, labels); got {}"
)
SINGLE = "single samples: give a DataLoader of the data set"


def test_complexity_of_a_loader_is_that_of_the_data_set():
    """Batches give the number that ``Dataset.complexity`` gives, without a draw from the global random state."""
    data = toy()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(data.train.images, data.train.labels), batch_size=7
    )
    before = torch.get_rng_state()
    assert measure_complexity(loader) == data.complexity == measure_complexity(data.train.images, data.train.labels)
    for pair in ((data.train.images, data.train.labels), [data.train.images, data.train.labels]):
        assert measure_complexity(pair) == data.complexity
    assert torch.equal(before, torch.get_rng_state())
    assert len(data.classes) == CLASSES


@pytest.mark.parametrize("shape", [(40, 3), (40, 2, 50), (40, 1, 6, 6, 6)])
def test_complexity_of_other_shapes(shape):
    """Vectors, signals and volumes have a complexity as well: low if the classes are apart, high if they are not."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    noise = torch.randn(shape, generator=draw)
    apart = noise + 9 * labels.view(-1, *[1] * (len(shape) - 1))
    assert measure_complexity(apart, labels) == 0
    assert measure_complexity(noise, labels) > 0.2
    # A class number that does not occur counts as a class, as in a data set that names it.
    assert measure_complexity(torch.ones(shape), 2 * labels) == pytest.approx(0.5 * math.log(2) / math.log(3))


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (torch.zeros(4, 2), torch.rand(4), NUMBERS.format("float32", "(4,)")),
        (torch.zeros(4, 2), torch.zeros(3).long(), NUMBERS.format("int64", "(3,)")),
        (torch.zeros(4, 2), torch.zeros(4, 1).long(), NUMBERS.format("int64", "(4, 1)")),
        (torch.zeros(4, 2), torch.zeros(4).long(), "measured on two or more classes, got 1"),
        (torch.zeros(4, 2), torch.arange(4) - 1, "measured with class numbers from 0, got none or a negative one"),
        (torch.zeros(0, 2), torch.zeros(0).long(), "measured with class numbers from 0, got none or a negative one"),
        ([("a", "b")], None, BATCHES.format("a batch of type tuple")),
        (
            [{"pixel_values": torch.zeros(4, 2), "labels": torch.arange(4)}],
            None,
            BATCHES.format("a batch of type dict"),
        ),
        *[([(torch.zeros(2), one)], None, BATCHES.format(SINGLE)) for one in (1, torch.tensor(1))],
        (torch.zeros(4, 2, 3), None, BATCHES.format("a batch of type Tensor")),
    ],
)
def test_complexity_refuses_what_has_no_classes(data, labels, message):
    with pytest.raises(dropopt.ConfigError) as caught:
        measure_complexity(data, labels)
    assert str(caught.value) == f"the complexity is {message}"
    with pytest.raises(dropopt.ConfigError, match=r"^the complexity cannot be measured: there are no batches$"):
        measure_complexity([])
