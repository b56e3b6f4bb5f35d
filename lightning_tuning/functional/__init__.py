"""Tensor in, tensor out: the numerics of the library, usable without Lightning."""

from lightning_tuning.functional.batch_norm import recalibrate_batch_norm
from lightning_tuning.functional.batch_norm_conversion import convert_batch_norm
from lightning_tuning.functional.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
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
from lightning_tuning.functional.norms import global_norm, join_norms, separate_norms, tensor_norms

__all__ = [
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "FrozenBatchNorm",
    "UOut",
    "activation_gain",
    "apply_dropout",
    "convert_batch_norm",
    "dropout_rate",
    "fan_in_and_fan_out",
    "fingerprint",
    "frozen",
    "global_norm",
    "hessian_top_eigenvalue",
    "initial_std",
    "initialize_",
    "join_norms",
    "recalibrate_batch_norm",
    "separate_norms",
    "set_forget_bias_",
    "split_decay_groups",
    "tensor_norms",
    "top_eigenvalue",
]
