"""Tensor in, tensor out: the numerics of the library, usable without Lightning."""

from lightning_tuning.functional.curvature import hessian_top_eigenvalue
from lightning_tuning.functional.decay_groups import split_decay_groups
from lightning_tuning.functional.eigenvalues import top_eigenvalue
from lightning_tuning.functional.fingerprint import fingerprint
from lightning_tuning.functional.initialization import (
    activation_gain,
    fan_in_and_fan_out,
    initial_std,
    initialize_,
    set_forget_bias_,
)
from lightning_tuning.functional.layer_initialization import initialize_layer_
from lightning_tuning.functional.norms import global_norm, join_norms, separate_norms, tensor_norms
from lightning_tuning.functional.output_prior import log_odds_prior, log_prior
from lightning_tuning.functional.variance_scale import fixup_scale, unit_variance_scale

__all__ = [
    "activation_gain",
    "fan_in_and_fan_out",
    "fingerprint",
    "fixup_scale",
    "global_norm",
    "hessian_top_eigenvalue",
    "initial_std",
    "initialize_",
    "initialize_layer_",
    "join_norms",
    "log_odds_prior",
    "log_prior",
    "separate_norms",
    "set_forget_bias_",
    "split_decay_groups",
    "tensor_norms",
    "top_eigenvalue",
    "unit_variance_scale",
]
