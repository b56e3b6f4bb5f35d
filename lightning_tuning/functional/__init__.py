"""Tensor in, tensor out: the numerics of the library, usable without Lightning."""

from lightning_tuning.functional.batch_norm import recalibrate_batch_norm
from lightning_tuning.functional.batch_norm_conversion import convert_batch_norm
from lightning_tuning.functional.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from lightning_tuning.functional.clip_thresholds import (
    percentile_threshold,
    push_norm_,
    updated_norm_statistics,
    zscore_threshold,
)
from lightning_tuning.functional.clipping import (
    adaptive_gradient_clip_,
    clip_coefficient,
    clip_values_,
    scale_gradients_,
    unit_dims,
)
from lightning_tuning.functional.curvature import hessian_top_eigenvalue
from lightning_tuning.functional.decay_groups import split_decay_groups
from lightning_tuning.functional.dropout import UOut, apply_dropout, dropout_rate
from lightning_tuning.functional.eigenvalues import top_eigenvalue
from lightning_tuning.functional.fingerprint import fingerprint
from lightning_tuning.functional.freezing import frozen
from lightning_tuning.functional.frozen_batch_norm import FrozenBatchNorm
from lightning_tuning.functional.initialization import (
    activation_gain,
    fan_in_and_fan_out,
    initial_std,
    initialize_,
    set_forget_bias_,
)
from lightning_tuning.functional.layer_initialization import initialize_layer_
from lightning_tuning.functional.load_state import LoadReport, load_state
from lightning_tuning.functional.lr_range import suggest_lr
from lightning_tuning.functional.momentum_schedule import momentum_at, set_momentum_
from lightning_tuning.functional.norms import global_norm, join_norms, separate_norms, tensor_norms
from lightning_tuning.functional.output_prior import log_odds_prior, log_prior
from lightning_tuning.functional.param_groups import param_groups
from lightning_tuning.functional.regularization import (
    add_elastic_net_gradients_,
    decay_,
    elastic_net,
    renorm_units_,
    soft_threshold_,
    zero_counts,
)
from lightning_tuning.functional.schedule_lr import schedule_lr_config
from lightning_tuning.functional.variance_scale import fixup_scale, unit_variance_scale

__all__ = [
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "FrozenBatchNorm",
    "LoadReport",
    "UOut",
    "activation_gain",
    "adaptive_gradient_clip_",
    "add_elastic_net_gradients_",
    "apply_dropout",
    "clip_coefficient",
    "clip_values_",
    "convert_batch_norm",
    "decay_",
    "dropout_rate",
    "elastic_net",
    "fan_in_and_fan_out",
    "fingerprint",
    "fixup_scale",
    "frozen",
    "global_norm",
    "hessian_top_eigenvalue",
    "initial_std",
    "initialize_",
    "initialize_layer_",
    "join_norms",
    "load_state",
    "log_odds_prior",
    "log_prior",
    "momentum_at",
    "param_groups",
    "percentile_threshold",
    "push_norm_",
    "recalibrate_batch_norm",
    "renorm_units_",
    "scale_gradients_",
    "schedule_lr_config",
    "separate_norms",
    "set_forget_bias_",
    "set_momentum_",
    "soft_threshold_",
    "split_decay_groups",
    "suggest_lr",
    "tensor_norms",
    "top_eigenvalue",
    "unit_dims",
    "unit_variance_scale",
    "updated_norm_statistics",
    "zero_counts",
    "zscore_threshold",
]
