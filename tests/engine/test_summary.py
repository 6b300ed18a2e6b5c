"""What an engine says about itself, and dropout that the network has of its own."""

import re

import pytest
import torch
import torchvision
from adapted import Adapted
from networks import Network
from residual_net import EXAMPLE, Net
from small_net import every_config
from torch import nn
from torch.nn.functional import dropout, dropout2d

import dropopt
from dropopt.config import METHODS, Baseline, ConfigError, EngineConfig
from dropopt.numbers import span


def regularised():
    """A convolution with dropout after the activation, and dropout before the output layer, where no engine drops."""
    return Network(
        lambda self, x: self.head(self.late(self.embed(self.drop(torch.relu(self.conv(x))).mean((2, 3))))),
        conv=nn.Conv2d(3, 6, 3),
        drop=nn.Dropout2d(0.3),
        embed=nn.Linear(6, 5),
        late=nn.Dropout(0.5),
        head=nn.Linear(5, 4),
    )


def attach(model, config=None, **options):
    return dropopt.attach(model, config or EngineConfig(), example=EXAMPLE, complexity=0.5, **options)


def test_the_summary_has_a_row_for_each_place_and_method():
    """Names, module types, shapes of one sample, depth and rates; metrics that are missing are named."""
    settings = {"r0": 0.3, "w_contextual": 0, "w_pfid": 0, "w_adaptive": 0.75, "w_structured": 0.25}
    with attach(Net(), EngineConfig(efficacy="adaptive", **settings), sites=("norm", "linear")) as engine:
        engine.step(epoch=1, epochs=4)
        rows = engine.rates()
        assert len({row["integrated"] for row in rows}) == 4  # by depth
        cells = [f"{row['depth']:.2f}       {row['integrated']:.3f}    {row['applied']:.3f}" for row in rows]
        assert engine.summary().splitlines() == [
            "Net: 4 places, pattern channel, allocation uniform, 25% of training done",
            "place          module       output     depth  integrated  applied",
            f"stem_norm      BatchNorm2d  6 x 6 x 6   {cells[0]}",
            f"blocks.0.norm  BatchNorm2d  6 x 6 x 6   {cells[1]}",
            f"blocks.1.norm  BatchNorm2d  6 x 6 x 6   {cells[2]}",
            f"hidden         Linear       10          {cells[3]}",
            "method      weight  mean rate",
            *(
                f"{method:10}   {weight:.3f}      {sum(row[method] for row in rows) / 4:.3f}"
                for method, weight in zip(METHODS, (0.75, 0.25, 0, 0, 0), strict=True)
            ),
            "not reported yet: train_loss, val_loss",
        ]
        engine.step(epoch=2, epochs=4, val_loss=0.9)
        assert engine.summary().splitlines()[-1] == "not reported yet: train_loss"
        engine.step(epoch=2, epochs=4, train_loss=0.9)
        assert "50% of training done" in engine.summary()
        assert "not reported" not in engine.summary()


def test_repr_names_model_places_and_rates():
    """Of the engine and its sites; a range where rates differ."""
    engine = attach(Net(), EngineConfig(w_structured=0, w_contextual=0, w_pfid=0, drop_updates="only"))
    assert repr(engine) == "DropoutEngine(Net, 2 places, pattern channel, applied 0.250)"
    assert repr(engine.sites["blocks.0"]) == "DropoutSite(6 features, axis=1, pattern='channel', p=0.250, masks=False)"
    engine.detach()
    assert repr(engine) == "DropoutEngine(Net, 2 places, pattern channel, applied 0.250, detached)"
    engine = attach(Net(), EngineConfig(pattern="element", allocation="feature"), sites=("hidden", "stem"))
    engine.sites["hidden"].p.copy_(torch.linspace(0.1, 0.4, 10))
    assert repr(engine.sites["hidden"]) == "DropoutSite(10 features, axis=-1, pattern='element', p=0.100 to 0.400)"
    engine.step(epoch=1, epochs=2)
    rates = sorted(row["applied"] for row in engine.rates())
    assert repr(engine).endswith(f", applied {rates[0]:.3f} to {rates[1]:.3f})")
    assert span([]) == "0"


def experts():
    """Three experts, of which one image uses the second; ``relevant`` is used in training only."""

    def run(self, x):
        x = self.experts[1](self.stem(x)).mean((2, 3))
        return self.head(self.relevant(x) if self.training else x)

    return Network(
        run,
        stem=nn.Conv2d(3, 6, 3),
        experts=nn.ModuleList(nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)) for _ in range(3)),
        relevant=nn.LayerNorm(6),
        unused=nn.Linear(6, 6),  # may be used without being called, as in nn.MultiheadAttention
        head=nn.Linear(6, 4),
    )


@every_config
def test_parts_that_did_not_run_are_named(config):
    """The largest parts with a convolution or a norm of which nothing ran on the example have no places."""
    with attach(experts(), config) as engine:
        assert list(engine.places) == ["experts.1.1"]
        assert engine.unrun == ("experts.0", "experts.2", "relevant")
        line = "nothing is dropped in experts.0 and 2 more: not run on the example in eval mode"
        assert line in engine.summary().splitlines()
    normed = Net()
    nn.utils.parametrizations.spectral_norm(normed.stem)
    with attach(normed, config) as engine:
        assert engine.unrun == ()
        assert "nothing is dropped in" not in engine.summary()


@every_config
def test_parts_that_run_several_times_are_named(config):
    """The encoder of a siamese network with a head of its own; what runs several times inside a place is masked."""
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model = Network(
        lambda self, x: self.out(self.head((self.encoder(x) - self.encoder(-x)).mean((2, 3)))),
        encoder=encoder,
        head=nn.Linear(4, 6),
        out=nn.Linear(6, 2),
    )
    line = "nothing is dropped in encoder: run several times in one forward pass"
    with attach(model, config) as engine:
        assert (list(engine.places), engine.shared) == (["head"], ("encoder",))
        assert line in engine.summary().splitlines()
    twice = Network(lambda self, x: self.act(self.conv(self.conv(x))), conv=nn.Conv2d(3, 3, 1), act=nn.ReLU())
    outer = Network(lambda self, x: self.out(self.twice(x).mean((2, 3))), twice=twice, out=nn.Linear(3, 2))
    with attach(outer, config, sites="twice") as engine:
        assert engine.shared == ()


def test_places_without_a_gradient_are_named():
    """Frozen layers pass none on, so that no importance by taylor is measured there; activation needs none."""
    model = regularised()
    model.conv.requires_grad_(False)
    line = "importance not measured at conv: no gradient passes, as in frozen layers"
    for importance, shown in (("taylor", True), ("activation", False)):
        config = EngineConfig(importance=importance)
        with attach(model, config, sites=("conv", "embed"), inside="keep") as engine:
            assert line not in engine.summary()
            model.train()(EXAMPLE).sum().backward()
            engine.step(epoch=1, epochs=2)
            assert (line in engine.summary().splitlines()) == shown
            engine.step(epoch=2, epochs=2)  # nothing was trained since the last step
            assert line not in engine.summary()


# -- dropout inside


def test_dropout_at_the_same_places_is_named():
    """Only the layers that pass on the features of a place, or lie in a place, are named."""
    message = (
        "^Network has dropout of its own where the engine drops: {}. Pass inside='replace' "
        "to switch it off while the engine is attached, or inside='keep' to apply both$"
    )
    one, two = (re.escape(f"{kind} (p = {p})") for kind, p in (("Dropout2d 'drop'", 0.3), ("Dropout 'late'", 0.5)))
    with pytest.warns(UserWarning, match=message.format(one)) as warned:
        dropopt.attach(regularised(), EngineConfig(), example=EXAMPLE, complexity=0.5, sites="conv").detach()
    assert warned[0].filename == __file__  # where the user called attach()
    with pytest.warns(UserWarning, match=message.format(f"{one} and 1 more")):
        engine = attach(regularised(), sites=("conv", "embed"))
    assert list(map(str, engine.own)) == ["Dropout2d 'drop' (p = 0.3)", "Dropout 'late' (p = 0.5)"]
    with pytest.raises(ConfigError, match=message.format(two)):
        attach(regularised(), sites="embed", inside="error")
    attach(Net(), inside="error").detach()  # it has none
    silent = regularised()
    silent.drop.p = 0.0
    attach(silent, sites="conv", inside="error").detach()  # that drops nothing
    with pytest.raises(ConfigError, match=r"^inside must be one of keep, replace, error, got 'off'$"):
        attach(Net(), inside="off")


def functional():
    """A network that calls dropout functions, in its own forward method, in that of a block, and before its output."""

    def logits(self, x):
        x = dropout2d(torch.relu(self.conv(self.stem(x))), 0.3, self.training)
        return self.head(dropout(self.layer(x.mean((2, 3))), training=self.training))

    stem = Network(lambda self, x: dropout(self.conv(x), p=0.25, training=self.training), conv=nn.Conv2d(3, 6, 3))
    return Network(logits, stem=stem, conv=nn.Conv2d(6, 4, 3), layer=nn.Dropout(0.0), head=nn.Linear(4, 4))


def test_a_dropout_layer_with_another_attribute_is_named_by_its_function():
    """The name of its drop probability is not known, so that it cannot be switched off."""

    class FeatureDropout(Network):
        pass

    layer = FeatureDropout(lambda self, x: dropout(x, 0.3, self.training))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Flatten(), nn.LazyLinear(4))
    engine = attach(model, sites="conv", inside="keep")
    assert list(map(str, engine.own)) == ["F.dropout in the forward method of 1 (p = 0.3)"]


def test_dropout_of_a_low_rank_update_is_not_that_of_the_layer():
    """peft drops inputs of its update, which are no features of a place."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    model[0] = Adapted(model[0], dropout=0.1)
    assert attach(model, sites="conv", inside="error").own == ()


def test_dropout_functions_at_the_same_places_are_named():
    """Functions have no layer that could be switched off; calls with p = 0 drop nothing."""
    block = "F.dropout in the forward method of stem (p = 0.25)"
    others = (
        f"F.{one} in the forward method of Network (p = {p})" for one, p in (("dropout2d", 0.3), ("dropout", 0.5))
    )
    for sites, expected in (("stem", [block]), ("stem.conv", [block]), ("conv", [block, *others])):
        with pytest.warns(UserWarning, match=re.escape(f"where the engine drops: {block}")):
            engine = attach(functional(), sites=sites)
        assert list(map(str, engine.own)) == expected
        assert f"these places: {', '.join(expected)}, which drops as well" in engine.summary()
        with pytest.raises(ConfigError, match=re.escape(f"Network calls {block}: use a layer")):
            attach(functional(), sites=sites, inside="replace")


@pytest.mark.parametrize("config", [EngineConfig(), Baseline(kind="none"), Baseline(kind="dropout2d")])
def test_replace_switches_it_off_until_detach(config):
    """A layer at a place drops nothing while the engine is attached; other dropout layers stay as they are."""
    model = regularised()
    line = "dropout of the network itself at these places: Dropout2d 'drop' (p = 0.3)"
    with attach(model, config, sites="conv", inside="replace") as engine:
        assert (model.drop.p, model.late.p) == (0, 0.5)
        assert f"{line}, switched off until detach()" in engine.summary().splitlines()
    assert (model.drop.p, model.late.p) == (0.3, 0.5)
    with attach(model, config, sites="conv", inside="keep") as engine:
        assert model.drop.p == 0.3
        assert f"{line}, which drops as well" in engine.summary().splitlines()
    with attach(model, config, sites=("conv", "embed"), inside="keep") as engine:
        assert f"{line}, Dropout 'late' (p = 0.5), which drops as well" in engine.summary().splitlines()


def test_stochastic_depth_in_a_block_is_taken_over():
    """torchvision's ConvNeXt has stochastic depth in its blocks, which are the places."""
    block = torchvision.models.convnext.CNBlock
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), block(4, 1.0, 0.25), block(4, 1.0, 0.5), *head)
    with attach(model, inside="replace") as engine:
        assert list(engine.sites) == ["1", "2"]
        assert (model[1].stochastic_depth.p, model[2].stochastic_depth.p) == (0, 0)
    assert (model[1].stochastic_depth.p, model[2].stochastic_depth.p) == (0.25, 0.5)
