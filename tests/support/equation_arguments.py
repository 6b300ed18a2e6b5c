"""The arguments of each equation and the kind of each argument, and the comparison of results."""

import torch

# Every function with its arguments in order, and the kind of value that each takes.
ARGUMENTS = {
    "adaptive_rate": "r0:unit alpha:sign depth:unit progress:unit theta_depth:gain theta_epoch:gain",
    "adjusted_alpha": "alpha:sign loss:gain delta:gain threshold:gain reading",
    "threshold_mask": "importance:layer r:unit",
    "random_mask": "noise:layer structure:mask r:unit reading",
    "structured_rate": "r:unit structure:mask reading",
    "complexity_factor": "complexity:unit theta:gain",
    "duration_factor": "duration:gain midpoint:gain phi:real",
    "performance_factor": "performance:gain psi:real reading",
    "contextual_rate": "r0:unit complexity:unit duration:unit performance:real",
    "probabilistic_importance": "mean:reals variance:layer",
    "feature_rate": "r0:unit weight:gain importance:layer reading",
    "epoch_weight": "initial:gain kappa:gain progress:unit theta:gain",
    "integrated_rate": "rates:layer weights:layer",
    "pfid_rate": "r0:unit weight:gain importance:layer reading",
    "normalised": "importance:layer",
    "importance_rate": "alpha:unit importance:layer reading",
    "dropped_gradient": "gradient:matrix noise:noises p:layer",
}


def close(got, wanted, tolerance=1e-9, case=""):
    """Assert that numbers or tensors are equal within ``tolerance``; NaN and other shapes fail.

    The error begins with ``case``, if there are several.
    """
    got, wanted = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (got, wanted))
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance, msg=lambda text: f"{case}\n{text}".lstrip())
