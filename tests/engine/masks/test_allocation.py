"""The features' rates have the site's budget as their mean, or the nearest value that can be met."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dropopt.config import P_MAX, EngineConfig
from dropopt.engine.masks.allocation import proportions, share_out


@settings(max_examples=100)
@given(st.floats(0, P_MAX), st.lists(st.just(0.0) | st.floats(1e-9, 1), min_size=1, max_size=40))
def test_rates_are_in_proportion_up_to_the_cap(budget, preference):
    """Their mean is the budget, or the nearest value that can be met; without a preference, all are equal."""
    rates = share_out(budget, torch.tensor(preference, dtype=torch.float64))
    weights = torch.tensor(preference if any(preference) else [1.0] * len(preference), dtype=torch.float64)
    carriers = weights > 0
    assert rates.mean().item() == pytest.approx(min(budget, P_MAX * carriers.double().mean().item()), rel=1e-9)
    scale = (rates[carriers] / weights[carriers]).max()  # of a feature below the cap, if there is one
    torch.testing.assert_close(rates, (scale * weights).clamp(max=P_MAX), rtol=1e-9, atol=1e-12)


def test_a_budget_above_the_cap_is_the_cap():
    """No rate exceeds P_MAX, for any budget."""
    assert share_out(1.0, torch.rand(7)).max() <= P_MAX
    assert torch.equal(share_out(1.0, torch.tensor([1.0, 0.0])), torch.tensor([P_MAX, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("reading", ["printed", "sound"])
def test_the_lemma_ignores_the_sign_of_alpha(reading):
    """The sign says how a rate changes with depth and time; sound proportions are the same for any alpha.

    Printed rates are equal where alpha is 0.
    """
    importance = torch.tensor([0.0, 0.25, 1.0])
    config = EngineConfig(allocation="importance", reading=reading)

    def rates(alpha):
        return share_out(0.3, proportions(config, alpha=alpha, progress=0.5, importance=importance))

    torch.testing.assert_close(rates(-0.6), rates(0.6))
    assert rates(0.6)[0] > rates(0.6)[2]
    torch.testing.assert_close(rates(0.0), rates(0.6) if reading == "sound" else torch.full((3,), 0.3).double())


@pytest.mark.parametrize("importance", [[0.0, 0.5, 1.0], [0.0, 0.0, 1.0]])
def test_eligible_features_share_evenly_where_their_rates_are_all_zero(importance):
    """Printed rates of the least important features are 0; pattern structured drops these, and no others."""
    config = EngineConfig(pattern="structured", allocation="feature", reading="printed", structured_threshold=0.0)
    found = proportions(config, alpha=0.5, progress=0.5, importance=torch.tensor(importance))
    assert found.tolist() == [float(i == 0) for i in importance]
