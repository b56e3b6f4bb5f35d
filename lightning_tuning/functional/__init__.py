"""Tensor in, tensor out: the numerics of the library, usable without Lightning."""

from lightning_tuning.functional.norms import global_norm, tensor_norms

__all__ = ["global_norm", "tensor_norms"]
