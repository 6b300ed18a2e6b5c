"""The response that the effects are estimated from: one number for each trial, pruned ones included."""

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial
from scipy.special import ndtri

from dropopt.study.effects.response import PRUNED_WEIGHT, responses

#: The final losses of three complete trials; a fourth trial was pruned at a loss between those of the last two.
LOSSES, PRUNED_AT = [1.0, 2.0, 4.0], 3.0


def trials(sign=1.0):
    complete = [create_trial(value=sign * loss, intermediate_values={1: sign * (loss + 0.1)}) for loss in LOSSES]
    pruned = create_trial(state=TrialState.PRUNED, intermediate_values={1: sign * PRUNED_AT})
    return [*complete, pruned]


@pytest.mark.parametrize("ratio", [True, False])
def test_a_pruned_trial_gets_the_value_of_its_rank(ratio):
    """It is third of four, so its value is between the second and the last one, at its normal score.

    It counts half as much as a complete trial. The slope is the derivative of the value with respect to the loss.
    """
    found = next(one for one in responses(trials(), maximise=False) if one.ratio is ratio)
    losses = np.array(LOSSES)
    own = np.log(losses) if ratio else losses
    last, third, second = ndtri([1 / 8, 3 / 8, 5 / 8])
    inferred = own[2] + (third - last) / (second - last) * (own[1] - own[2])
    expected = np.array([*own, inferred])
    assert found.value * found.unit == pytest.approx(expected - expected.mean())
    assert found.unit == pytest.approx(expected.std())
    assert found.weight.tolist() == [1.0, 1.0, 1.0, PRUNED_WEIGHT]
    slope = 1 / (found.unit * losses) if ratio else np.full(3, 1 / found.unit)
    assert found.log_slope[:3] == pytest.approx(np.log(slope))


def test_the_negative_maximised_has_the_same_response():
    """On both scales: the logarithm is that of the negative of a value that is maximised."""
    for found, same in zip(responses(trials(-1.0), maximise=True), responses(trials(), maximise=False), strict=True):
        assert found.ratio == same.ratio
        assert found.value == pytest.approx(same.value)
        assert found.unit == pytest.approx(same.unit)


@pytest.mark.parametrize("scale", [2.0**-60, 1.0, 2.0**60])
def test_the_unit_of_the_values_does_not_matter(scale):
    """Neither tiny values nor huge ones count as equal; equal ones do at any size."""
    outcomes = {loss: create_trial(value=scale * loss) for loss in LOSSES}
    plain = responses([create_trial(value=loss) for loss in LOSSES], maximise=False)
    for found, same in zip(responses([*outcomes.values()], maximise=False), plain, strict=True):
        assert found.value == pytest.approx(same.value)
        assert found.unit == pytest.approx(same.unit if found.ratio else scale * same.unit)
    for found in responses([create_trial(value=scale * (1 + 1e-14 * row)) for row in range(3)], maximise=False):
        assert not found.value.any()
