"""How much a site drops: the five members of eq. (15), each from its own equation."""

from __future__ import annotations

from torch import Tensor

from dropopt import equations
from dropopt.config import METHODS, EngineConfig, Method
from dropopt.engine.masks.allocation import eligible
from dropopt.engine.metrics import Metrics

#: Members whose rate depends on the importance of features.
BY_IMPORTANCE: tuple[Method, ...] = ("structured", "pfid")
#: Members whose rate depends on the fraction of safe positions.
BY_AREA: tuple[Method, ...] = ("spatial",)


def member_rates(
    config: EngineConfig,
    metrics: Metrics,
    *,
    complexity: float,
    depth: float,
    importance: Tensor,
    safe_area: Tensor,
) -> dict[str, float]:
    """Return the drop rate of each member at one site, in [0, 1], in the order of METHODS.

    Args:
        config: the engine's settings.
        metrics: progress and metrics of training.
        complexity: complexity of the data, in [0, 1].
        depth: relative depth of the site, in (0, 1].
        importance: (C,) normalised importance of the site's features, in [0, 1].
        safe_area: (1,) fraction of positions that are safe to drop by eq. (8), in [0, 1].
    """
    c = config
    weight = equations.epoch_weight(c.lambda_init, c.kappa, metrics.progress, c.theta)
    rates = {
        "adaptive": equations.adaptive_rate(
            c.r0, alpha(c, metrics), depth, metrics.progress, c.theta_depth, c.theta_epoch
        ),
        "structured": equations.structured_rate(c.r0, eligible(importance, c.structured_threshold), reading=c.reading),
        "contextual": _contextual(c, metrics, complexity),
        "pfid": equations.pfid_rate(c.r0, weight, importance, reading=c.reading),
        "spatial": equations.structured_rate(c.r0, safe_area, reading=c.reading),
    }
    return {method: float(rates[method]) for method in METHODS}


def alpha(config: EngineConfig, metrics: Metrics) -> float:
    """Eq. (2); the configured alpha until the first validation loss is reported."""
    loss = metrics.val_loss
    if loss is None:
        return config.alpha
    return float(equations.adjusted_alpha(config.alpha, loss, config.delta, config.lambda_loss, reading=config.reading))


def _contextual(config: EngineConfig, metrics: Metrics, complexity: float) -> equations.Scalar:
    """Eq. (9)-(11); the performance factor is 1 until its metric is first reported."""
    performance = metrics.performance(config.performance)
    return equations.contextual_rate(
        config.r0,
        equations.complexity_factor(complexity, config.complexity_theta),
        equations.duration_factor(metrics.progress, 0.5, config.duration_phi),
        1.0
        if performance is None
        else equations.performance_factor(performance, config.performance_psi, reading=config.reading),
    )
