"""Efficacy weights: one step of exponentiated gradient, and the floor below which no weight falls."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_net import make

from dropopt.config import EngineConfig
from dropopt.engine.efficacy import EfficacyWeights, reweighted, with_floor


@pytest.mark.parametrize("ratio", [1.5, 20.0, 0.02])
def test_one_step_of_the_weights(ratio):
    """Exponentiated gradient on the gap log(val / train), which counts as 1 at most in either direction."""
    shares, rates = [0.5, 0.3, 0.0, 0.2], [0.1, 0.4, 0.9, 0.3]
    gap = float(np.clip(math.log(ratio), -1, 1))
    deviation = np.array(rates) - np.dot(shares, rates)
    largest = np.abs(deviation[[0, 1, 3]]).max()  # a member without a share does not count
    grown = np.array(shares) * np.exp(0.7 * gap * deviation / largest)
    found = reweighted(shares, rates, val_loss=ratio * 0.3, train_loss=0.3, step=0.7, floor=0.0)
    assert found == pytest.approx(list(grown / grown.sum()))


def test_a_share_never_vanishes():
    """Without a floor, the smallest share is 1e-9, and small differences between the rates count in full."""
    found = reweighted([0.5, 0.3, 0.2], [0.0, 1.0, 1.0], val_loss=3.0, train_loss=1.0, step=5.0, floor=0.0)
    grown = np.array([0.5, 0.3, 0.2]) * np.exp([-5.0, 5.0, 5.0])  # both deviations from 0.5 are equal
    assert found == pytest.approx(list(grown / grown.sum()), rel=1e-6)
    found = reweighted([0.5, 0.5], [0.0, 1.0], val_loss=3.0, train_loss=1.0, step=1e6, floor=0.0)
    assert found == pytest.approx([1e-9, 1 - 1e-9], rel=1e-12)
    assert reweighted([0.5, 0.5], [0.25, 0.25 + 1e-6], val_loss=3.0, train_loss=1.0, step=1.0, floor=0.0)[1] > 0.6


@pytest.mark.parametrize(
    ("losses", "rates"), [((0, 1), (0, 1)), ((1, 0), (0, 1)), ((-1, -1), (0, 1)), ((2, 1), (1, 1))]
)
def test_without_a_gap_or_a_difference_nothing_changes(losses, rates):
    """The shares stay where a loss is not positive, or where all members have the same rate."""
    shares = [0.75, 0.25]
    assert reweighted(shares, rates, val_loss=losses[0], train_loss=losses[1], step=1.0, floor=0.3) == shares
    with pytest.raises(ValueError, match="shorter"):
        reweighted(shares, [0.5], val_loss=2, train_loss=1, step=1.0, floor=0.3)


@pytest.mark.parametrize("r0", [0.3, 0.7])
def test_rates_that_differ_by_rounding_are_equal(r0):
    """Before features are scored, these members drop r0, some of them rounded to float32: no weight changes."""
    config = EngineConfig(r0=r0, efficacy="adaptive", w_spatial=0.25, w_contextual=0, w_pfid=0)
    _, engine = make(config)
    before = engine.weights()
    engine.step(epoch=1, epochs=9, val_loss=3.0, train_loss=1.0)
    assert engine.weights() == before


@given(st.lists(st.just(0.0) | st.floats(1e-3, 1.0), min_size=1, max_size=6).filter(any), st.floats(0, 1))
def test_the_floor_raises_only_small_weights(weights, floor):
    """Shares sum to 1; those above the floor are in proportion, and the others would be below it in proportion."""
    shares = with_floor(weights, floor)
    positive = [(w, s) for w, s in zip(weights, shares, strict=True) if w > 0]
    floor = min(floor, 1 / len(positive))
    assert sum(shares) == pytest.approx(1, rel=1e-12)
    assert [s for w, s in zip(weights, shares, strict=True) if w == 0] == [0.0] * weights.count(0.0)
    assert min(s for _, s in positive) >= floor * (1 - 1e-12)
    free = [s / w for w, s in positive if s > floor * (1 + 1e-9)]
    for scale in free:
        assert scale == pytest.approx(free[0], rel=1e-9)
        assert all(w * scale <= floor * (1 + 1e-9) for w, s in positive if s <= floor * (1 + 1e-9))


@pytest.mark.parametrize(("step", "floor"), [(1e6, 0.2), (1e6, 0.0), (5.0, 0.0)])
def test_weights_stay_legal_for_any_step_size(step, floor):
    """After any number of steps in one direction, weights are valid and can recover."""
    weights = EfficacyWeights(EngineConfig(efficacy="adaptive", efficacy_step=step, efficacy_floor=floor))
    most = []
    for val_loss, steps in ((2.0, 100), (0.5, 40)):
        for _ in range(steps):
            weights.learn(0.75, [0.1, 0.4, 0.2, 0.3, 0.2], val_loss=val_loss, train_loss=1.0)
            *positive, spatial = shares = weights.shares(0.75)
            assert sum(shares) == pytest.approx(1.0)
            assert min(positive) > 0
            assert spatial == 0
        most.append(shares.index(max(shares)))
    assert most == [1, 0]
