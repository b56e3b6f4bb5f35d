"""All weights and biases of one layer, by what kind of layer it is."""

from __future__ import annotations

import torch
from torch import nn

from lightning_tuning.functional._layers import bias_names, weight_slots
from lightning_tuning.functional.initialization import Distribution, SchemeName, initialize_, set_forget_bias_

__all__ = ["initialize_layer_"]


def initialize_layer_(
    layer: nn.Module,
    scheme: SchemeName = "he",
    *,
    distribution: Distribution = "normal",
    bias: float | None = 0.0,
    forget_bias: float | None = 1.0,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Fill the parameters of ``layer`` itself in place, and return it; what ``WeightInitCallback`` does to one layer.

    Linear, bilinear, (transposed) convolution, recurrent and attention layers, and what derives from them. Recurrent
    weights become orthogonal under every scheme, gate by gate. Other modules, embeddings and normalization among them,
    stay as they are, and so do frozen parameters.

    Args:
        layer: not what it contains; ``net.apply(initialize_layer_)`` goes through all.
        scheme: see :func:`initial_std`. Default ``"he"``: most layers feed a rectifier.
        distribution: ``"normal"`` (default) or ``"uniform"``.
        bias: fills the biases. Default 0.0; ``None`` leaves them.
        forget_bias: of an LSTM's forget gates. Default 1.0 (Jozefowicz et al. 2015); ``None`` leaves them.
        generator: on the device of the weights. Default: the device's global one.

    Raises:
        ValueError: for an unknown scheme or distribution.

    Example:
        >>> lstm = initialize_layer_(nn.LSTM(3, 4), "xavier")
        >>> torch.allclose(lstm.weight_hh_l0[:4] @ lstm.weight_hh_l0[:4].T, torch.eye(4), atol=1e-6)
        True
        >>> (lstm.bias_ih_l0 + lstm.bias_hh_l0)[4:8].tolist()  # the forget gates
        [1.0, 1.0, 1.0, 1.0]
    """
    slots = [slot for slot in weight_slots(layer) if layer.get_parameter(slot.name).requires_grad]
    for slot in slots:
        initialize_(
            layer.get_parameter(slot.name).detach(),
            "orthogonal" if slot.recurrent else scheme,
            fans=slot.fans,
            blocks=slot.blocks,
            distribution=distribution,
            generator=generator,
        )
    if slots and bias is not None:
        for name in bias_names(layer):
            if (values := layer.get_parameter(name)).requires_grad:
                nn.init.constant_(values, bias)
    is_free = all(parameter.requires_grad for parameter in layer.parameters(recurse=False))
    if slots and is_free and forget_bias is not None and isinstance(layer, nn.LSTM | nn.LSTMCell):
        set_forget_bias_(layer, forget_bias)
    return layer
