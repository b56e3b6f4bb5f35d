"""Initial weights whose signal neither dies nor grows with depth: variances, draws, and the gain of an activation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

__all__ = [
    "Distribution",
    "SchemeName",
    "activation_gain",
    "fan_in_and_fan_out",
    "initial_std",
    "initialize_",
    "named_generator",
    "set_forget_bias_",
]

SchemeName = Literal["he", "xavier", "lecun", "orthogonal"]
Distribution = Literal["normal", "uniform"]

_RELU_GAIN = math.sqrt(2.0)


def fan_in_and_fan_out(
    weight: Tensor, *, transposed: bool = False, groups: int = 1, stride: Sequence[int] = ()
) -> tuple[float, float]:
    """How many inputs feed one output of a layer, and how many outputs one input feeds.

    ``torch.nn.init`` derives fans from the shape alone. That is right for a linear layer and a plain convolution; it
    counts the outputs of all groups of a grouped convolution, and it has a transposed convolution the wrong way round.

    Args:
        weight: at least two dimensions: ``(out, in / groups, *kernel)``, or ``(in, out / groups, *kernel)`` if
            ``transposed``.
        transposed: the weight of a transposed convolution.
        groups: of a convolution.
        stride: of a transposed convolution, one number for each dimension of its kernel. A stride of ``s`` spreads the
            inputs out, so that each output meets one in ``s`` of the kernel's elements. Default: 1 everywhere.

    Raises:
        ValueError: for fewer than two dimensions, or a ``groups`` that does not divide the first of them.

    Example:
        >>> fan_in_and_fan_out(torch.empty(16, 8, 3, 3))
        (72.0, 144.0)
        >>> fan_in_and_fan_out(torch.empty(8, 16, 4, 4), transposed=True, stride=(2, 2))
        (32.0, 256.0)
    """
    if weight.dim() < 2:
        raise ValueError(f"`weight` must have at least 2 dimensions, got the shape {tuple(weight.shape)}.")
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"`groups` must divide the first dimension of `weight`, got {groups} and {weight.shape[0]}.")
    kernel = math.prod(weight.shape[2:])
    across, along = weight.shape[0] // groups * kernel, weight.shape[1] * kernel
    return (across / math.prod(stride), float(along)) if transposed else (float(along), float(across))


def activation_gain(activation: Callable[[Tensor], Tensor]) -> float:
    r"""The gain that keeps the second moment of a signal at 1 from one ``activation`` to the next.

    ``1 / sqrt(E[f(z)^2])`` for a standard normal ``z``: the argument of He et al. (2015), section 2.2, without the
    assumption that ``f`` is a rectifier. It gives ReLU's :math:`\sqrt 2`, 1 for SELU, 1.53 for GELU, 1.68 for SiLU.
    Where ``f`` is not homogeneous the 1 is a fixed point, attracting (SELU, ELU) or repelling (GELU, SiLU, Mish: in
    plain stacks of 256 units the root mean square goes from 1 to 1.6, 2.2, 1.1 in 8 layers and to 2.3, 5.3, 1.3 in 12,
    while with :math:`\sqrt 2` it falls to 0.4, 0.06, 0.7). Beyond a dozen layers those need normalization.

    Args:
        activation: elementwise; evaluated once on a grid of float64 numbers on the CPU.

    Raises:
        ValueError: if ``E[f(z)^2]`` is zero or not finite.

    Example:
        >>> round(activation_gain(torch.relu), 4), round(activation_gain(torch.nn.functional.gelu), 4)
        (1.4142, 1.5335)
    """
    z = torch.linspace(-12.0, 12.0, 24001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    with torch.no_grad():
        moment = float(torch.trapezoid(activation(z).square() * density, z))
    if not (math.isfinite(moment) and moment > 0):
        raise ValueError(f"`activation` must have a positive, finite second moment under N(0, 1), got {moment}.")
    return 1 / math.sqrt(moment)


def initial_std(scheme: SchemeName, fan_in: float, fan_out: float, gain: float | None = None) -> float:
    r"""The standard deviation of the weights that ``scheme`` asks for.

    ============== ============================================ ==========================================
    ``"he"``       :math:`gain / \sqrt{n_{in}}`, gain √2        He et al. 2015, section 2.2
    ``"xavier"``   :math:`gain \sqrt{2 / (n_{in} + n_{out})}`   Glorot & Bengio 2010, equation 12
    ``"lecun"``    :math:`gain / \sqrt{n_{in}}`                 LeCun et al. 1998, section 4.6
    ============== ============================================ ==========================================

    Args:
        scheme: one of the three; an orthogonal matrix is not drawn element by element.
        fan_in: number of inputs of one output.
        fan_out: number of outputs of one input.
        gain: default √2 for ``"he"`` (ReLU halves the second moment), else 1.

    Raises:
        ValueError: for another scheme, fans that are not positive, a gain that is not positive and finite.

    Example:
        >>> initial_std("he", 50, 10), initial_std("xavier", 30, 20), initial_std("lecun", 25, 10)
        (0.2, 0.2, 0.2)
    """
    if scheme not in ("he", "xavier", "lecun"):
        raise ValueError(f"`scheme` must be 'he', 'xavier' or 'lecun', got {scheme!r}.")
    if not (fan_in > 0 and fan_out > 0):
        raise ValueError(f"`fan_in` and `fan_out` must be positive, got {fan_in} and {fan_out}.")
    if gain is None:
        gain = _RELU_GAIN if scheme == "he" else 1.0
    _check_gain(gain)
    return gain * (math.sqrt(2 / (fan_in + fan_out)) if scheme == "xavier" else 1 / math.sqrt(fan_in))


def initialize_(
    weight: Tensor,
    scheme: SchemeName,
    *,
    gain: float | None = None,
    fans: tuple[float, float] | None = None,
    blocks: int = 1,
    distribution: Distribution = "normal",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill ``weight`` in place by ``scheme``, and return it.

    Where the fans are those of its shape this gives, from the same generator, the very numbers of
    ``torch.nn.init.kaiming_normal_`` and its siblings. Half precision is drawn in float32 and rounded.

    Args:
        weight: floating point, at least two dimensions; an empty one stays as it is.
        scheme: see :func:`initial_std`. ``"orthogonal"``: rows (or columns, whichever are fewer) of length ``gain``,
            orthogonal to each other (Saxe et al. 2014), a kernel's dimensions counted with the columns.
        gain: default √2 for ``"he"``, else 1.
        fans: fan-in and fan-out. Default: as :func:`fan_in_and_fan_out` reads them off the shape.
        blocks: independent matrices stacked along the first dimension (gates of an LSTM, query-key-value, groups of a
            convolution): each becomes orthogonal by itself, and default fans are those of one block.
        distribution: ``"normal"`` (default: as in He's and LeCun's papers, and alike in every direction of the input)
            or ``"uniform"`` (bounded at √3 standard deviations, as PyTorch's own). Their variances are equal;
            an orthogonal matrix has neither.
        generator: on the device of ``weight``. Default: the device's global one.

    Raises:
        ValueError: for an unknown scheme or distribution, for integers, and where ``blocks`` does not divide the rows.

    Example:
        >>> weight = initialize_(torch.empty(256, 1024), "he", generator=torch.Generator().manual_seed(0))
        >>> f"{weight.std():.3f}"  # sqrt(2 / 1024) = 0.0442
        '0.044'
    """
    if scheme not in get_args(SchemeName):
        raise ValueError(f"`scheme` must be one of {get_args(SchemeName)}, got {scheme!r}.")
    if distribution not in get_args(Distribution):
        raise ValueError(f"`distribution` must be one of {get_args(Distribution)}, got {distribution!r}.")
    if not weight.is_floating_point() or weight.dim() < 2:
        raise ValueError(
            f"`weight` must be a floating-point matrix or kernel, got {weight.dtype} {tuple(weight.shape)}."
        )
    if blocks < 1 or weight.shape[0] % blocks:
        raise ValueError(f"`blocks` must divide the rows of `weight`, got {blocks} and {weight.shape[0]}.")
    if weight.numel() == 0:
        return weight
    with torch.no_grad():
        drawn = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
        if scheme == "orthogonal":
            _check_gain(gain := 1.0 if gain is None else gain)
            for block in drawn.chunk(blocks):
                block.copy_(nn.init.orthogonal_(torch.empty_like(block), gain, generator=generator))
        else:
            fan_in, fan_out = fans or fan_in_and_fan_out(drawn.narrow(0, 0, len(drawn) // blocks))
            std = initial_std(scheme, fan_in, fan_out, gain)
            if distribution == "normal":
                nn.init.normal_(drawn, 0.0, std, generator=generator)
            else:
                bound = math.sqrt(3.0) * std
                nn.init.uniform_(drawn, -bound, bound, generator=generator)
        return weight if drawn is weight else weight.copy_(drawn)


def set_forget_bias_(lstm: nn.LSTM | nn.LSTMCell, value: float = 1.0) -> None:
    """Open the forget gates of ``lstm``: their effective bias becomes ``value``, so that it remembers by default.

    PyTorch adds two biases in each gate; ``value`` goes into one, zero into the other. Without it half of the cell's
    content is gone after each step (Jozefowicz et al. 2015, section 4.1). An LSTM without biases stays as it is.

    Args:
        lstm: any number of layers and directions.
        value: default 1.0, the value of the paper.

    Example:
        >>> lstm = nn.LSTM(3, 2)
        >>> set_forget_bias_(lstm)
        >>> (lstm.bias_ih_l0 + lstm.bias_hh_l0)[2:4].tolist()  # gates in order: input, forget, cell, output
        [1.0, 1.0]
    """
    hidden = lstm.hidden_size
    with torch.no_grad():
        for name, bias in lstm.named_parameters(recurse=False):
            if name.startswith("bias"):
                bias.narrow(0, hidden, hidden).fill_(value if name.startswith("bias_ih") else 0.0)


def named_generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for ``name``: what it draws depends on ``seed`` and ``name`` and on nothing drawn before.

    Example:
        >>> first, again, other = (torch.rand(2, generator=named_generator(7, name)) for name in ("a", "a", "b"))
        >>> torch.equal(first, again), torch.equal(first, other)
        (True, False)
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:4], "big"))  # the CPU's generator takes 32 bits


def _check_gain(gain: float) -> None:
    if not (math.isfinite(gain) and gain > 0):
        raise ValueError(f"`gain` must be positive and finite, got {gain}.")
