"""The engine over several epochs against the paper's formulas, written out again with plain numbers."""

import math

import numpy as np
import pytest
import torch
from small_net import make

from dropopt.config import METHODS, P_MAX, EngineConfig
from dropopt.engine.efficacy import reweighted
from dropopt.engine.importance import from_training
from dropopt.engine.site import DropoutSite

EPOCHS = 10


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def member_rates(c, depth, t, importance, area, metrics, complexity):
    """The five rates of eq. (1)-(16) in the sound reading."""
    val_loss, train_loss, accuracy = metrics
    alpha = c.alpha * sigmoid(c.delta * (val_loss - c.lambda_loss))
    normalised = (importance - importance.min()) / (importance.max() - importance.min())
    eligible = normalised <= c.structured_threshold
    performance = {"accuracy": accuracy, "loss": val_loss, "ratio": val_loss / train_loss}[c.performance]
    weight = c.lambda_init * (1 + c.kappa * t**c.theta)
    contextual = (
        c.r0
        * (1 - math.exp(-c.complexity_theta * complexity))
        * (1 - sigmoid(c.duration_phi * (t - 0.5)))
        * max(0.0, 1 + c.performance_psi * math.log(performance))
    )
    distribution = normalised / normalised.sum()
    return {
        "adaptive": c.r0 * (1 - alpha * depth**c.theta_depth * t**c.theta_epoch),
        "structured": c.r0 * eligible.mean(),
        "contextual": min(1.0, contextual),
        "pfid": c.r0 * np.prod(np.clip(1 - weight * distribution, 0, 1)),
        "spatial": c.r0 * area,
    }


@pytest.mark.parametrize("performance", ["accuracy", "loss", "ratio"])
def test_ten_epochs_follow_the_paper(performance):
    """Rates of every member, the blend and the applied rate, with importances averaged over epochs by their decay."""
    c = EngineConfig(
        r0=0.4, alpha=0.7, delta=3.0, lambda_loss=0.9, theta_depth=0.5, theta_epoch=2.0, complexity_theta=2.0,
        duration_phi=-3.0, performance_psi=0.3, performance=performance, lambda_init=0.4, kappa=2.0, theta=1.5,
        w_adaptive=0.3, w_structured=0.2, w_contextual=0.15, w_pfid=0.25, w_spatial=0.1, importance="activation",
        importance_decay=0.8,
    )  # fmt: skip
    _, engine = make(c)
    averages = {}
    for epoch in range(1, EPOCHS + 1):
        draws = np.random.default_rng(epoch)
        metrics = (2.0 / epoch + 0.3, 1.5 / epoch, 0.4 + 0.05 * epoch)
        for name, site in engine.sites.items():
            scores = draws.uniform(0.1, 2.0, len(site.importance))
            site.totals.copy_(torch.tensor(scores * 7)[None])  # 7 samples were scored in this epoch
            site.count.fill_(7)
            averages[name] = scores if epoch == 1 else 0.8 * averages[name] + 0.2 * scores
        val_loss, train_loss, accuracy = metrics
        engine.step(epoch=epoch, epochs=EPOCHS, val_loss=val_loss, train_loss=train_loss, val_accuracy=accuracy)
        for row, site in zip(engine.rates(), engine.sites.values(), strict=True):
            expected = member_rates(
                c, row["depth"], epoch / EPOCHS, averages[row["site"]], float(site.area), metrics, 0.5
            )
            assert {m: row[m] for m in METHODS} == pytest.approx(expected, rel=1e-4)
            blended = sum(getattr(c, f"w_{m}") * rate for m, rate in expected.items())
            assert row["integrated"] == pytest.approx(blended, rel=1e-4)
            assert row["applied"] == pytest.approx(min(blended, P_MAX), rel=1e-4)
            assert not site.totals.any()
            assert site.count == 0


def test_no_rate_exceeds_the_largest_one():
    """A blend of 1 is applied as P_MAX, so that the scale stays finite."""
    _, engine = make(EngineConfig(r0=1.0, alpha=0.0, w_structured=0, w_contextual=0, w_pfid=0))
    assert [row["integrated"] for row in engine.rates()] == [1.0] * len(engine.sites)
    assert all(float(site.p) == pytest.approx(P_MAX) for site in engine.sites.values())


@pytest.mark.parametrize("ratio", [1.5, 20.0, 0.02])
def test_one_step_of_the_weights(ratio):
    """Exponentiated gradient on the gap log(val / train), which counts as 1 at most in either direction."""
    shares, rates = [0.5, 0.3, 0.2], [0.1, 0.4, 0.3]
    gap = float(np.clip(math.log(ratio), -1, 1))
    deviation = np.array(rates) - np.dot(shares, rates)
    grown = np.array(shares) * np.exp(0.7 * gap * deviation / np.abs(deviation).max())
    found = reweighted(shares, rates, val_loss=ratio * 0.3, train_loss=0.3, step=0.7, floor=0.0)
    assert found == pytest.approx(list(grown / grown.sum()))


@pytest.mark.parametrize("shape", [(6, 3, 5, 4), (6, 3)])
def test_scores_are_means_over_samples(shape):
    """Activation and statistical importance, by loops over samples and features in float64."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.0, 1.0, -2.0]).view(
        1, 3, *[1] * (len(shape) - 2)
    )
    maps = x.double().numpy().reshape(6, 3, -1)
    activation = []
    for feature in range(3):
        total = 0.0
        for sample in range(6):
            size = np.abs(maps[sample, feature])
            total += size[size >= size.mean()].sum() / size.size
        activation.append(total / 6)
    found = from_training.from_totals("activation", from_training.activation_score(x)[None], torch.tensor(6.0))
    assert found.tolist() == pytest.approx(activation, rel=1e-5)
    mean = maps.mean((0, 2))
    deviation = np.sqrt(maps.var((0, 2)) + 1e-12)
    above = [0.5 * math.erfc(-(m - mean.mean()) / s / math.sqrt(2)) for m, s in zip(mean, deviation, strict=True)]
    found = from_training.from_totals("statistical", from_training.moments(x), torch.tensor(6.0))
    assert found.tolist() == pytest.approx(above, rel=1e-4)


def test_a_site_averages_importance_by_its_decay():
    """The decay is the weight of the past; the first scores have no past."""
    site = DropoutSite(1, 2, "channel", importance="taylor")
    site.set_importance(torch.tensor([1.0, 4.0]), decay=0.9)
    site.set_importance(torch.tensor([2.0, 0.0]), decay=0.9)
    torch.testing.assert_close(site.importance, torch.tensor([1.1, 3.6]))
