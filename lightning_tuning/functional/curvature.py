"""The largest eigenvalue of a loss's Hessian, from products with it alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import function as autograd_function

from lightning_tuning.functional.eigenvalues import TopEigenvalue, top_eigenvalue

__all__ = ["CurvatureError", "hessian_top_eigenvalue"]


class CurvatureError(RuntimeError):
    """The Hessian of a loss cannot be had; the message is one sentence, for a report, that says why."""


def hessian_top_eigenvalue(
    loss: Tensor | Callable[[], Tensor],
    parameters: Iterable[Tensor],
    *,
    iterations: int = 20,
    generator: torch.Generator | None = None,
    preconditioner: Sequence[Tensor | float] | None = None,
    decay: Sequence[float] | None = None,
    stop: Callable[[TopEigenvalue], bool] | None = None,
) -> TopEigenvalue:
    """The largest eigenvalue of ``P^(-1/2) (H + decay) P^(-1/2)``, with ``H`` the Hessian of ``loss``.

    The sharpness: gradient descent on a quadratic diverges once its learning rate exceeds 2 / sharpness. The largest in
    the algebraic sense, for directions of negative curvature do not oscillate. Found by :func:`top_eigenvalue` from
    products with the Hessian, each a backward pass through the gradient, in float32 (float64 for such parameters).

    The backward pass of an own ``autograd.Function`` is taken at its word: what it makes of detached tensors counts as
    constant.

    Price: ``iterations`` times some two backward passes, and the graph of the gradient beside that of the loss; four
    vectors of the size of the parameters. Reads no value back, though ``torch.linalg.eigh`` waits for an accelerator.

    Args:
        loss: 0-d, with its graph; or makes it. Its graph is kept.
        parameters: of any shapes and dtypes; one given twice counts once, those that do not require a gradient or do
            not reach the loss are passed over.
        iterations: products at most; 20 by default: the largest eigenvalue of the batch loss of a net stands out from
            the rest, and is found to a percent in about ten.
        generator: for the first vector, drawn on its device. Default: the global generator of the parameters' device.
        preconditioner: ``P``, the diagonal of a positive matrix: for each parameter a number, or a tensor that
            broadcasts to its shape. Infinity holds a parameter fixed. Default: ones.
        decay: for each parameter what is added to the diagonal of its Hessian: the coefficient of an L2 penalty that
            the optimizer adds to the gradient. Default: zeros.
        stop: asked after every product whether this will do; it may read. Default: never.

    Raises:
        CurvatureError: if no parameter reaches the loss, or an operation has no second derivative (flash attention,
            RNNs of cuDNN, functions that are ``once_differentiable``, sparse gradients).
        ValueError: if ``iterations`` is less than 1, ``loss`` is not one number, or the lengths differ.

    Example:
        >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> found = hessian_top_eigenvalue((3 * w[0] ** 2 - 5 * w[1] ** 2) / 2, [w])
        >>> round(found.value.item(), 4)
        3.0

    Source: Cohen et al. 2021, Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability;
    Pearlmutter 1994, Fast Exact Multiplication by the Hessian.
    """
    given = list(parameters)
    inverse = [1.0] * len(given) if preconditioner is None else list(preconditioner)
    added = [0.0] * len(given) if decay is None else list(decay)
    for name, values in (("preconditioner", inverse), ("decay", added)):
        if len(values) != len(given):
            raise ValueError(f"`{name}` must have one entry for each of {len(given)} parameters, got {len(values)}.")
    objective = loss if isinstance(loss, Tensor) else loss()
    if objective.numel() != 1:
        raise ValueError(f"`loss` must be one number, got a tensor of shape {tuple(objective.shape)}.")
    known = {id(p): (p, root, d) for p, root, d in zip(given, inverse, added, strict=True) if p.requires_grad}
    hessian = _Hessian(objective, list(known.values()))
    return top_eigenvalue(hessian.product, hessian.random(generator), iterations=iterations, stop=stop)


class _Hessian:
    """Products with ``P^(-1/2) (H + decay) P^(-1/2)``."""

    def __init__(self, loss: Tensor, parameters: list[tuple[Tensor, Tensor | float, float]]) -> None:
        given = [parameter for parameter, *_ in parameters]
        if not given or not loss.requires_grad:
            raise CurvatureError("no parameter that requires a gradient reaches the loss")
        if _goes_through_once(loss):
            raise CurvatureError("the backward pass of one of its functions is `once_differentiable`")
        gradients = _differentiated([loss], given, None, create_graph=True)
        reached = [(g, *rest) for g, rest in zip(gradients, parameters, strict=True) if g is not None]
        if not reached:
            raise CurvatureError("no parameter that requires a gradient reaches the loss")
        if any(gradient.layout is not torch.strided for gradient, *_ in reached):
            raise CurvatureError("a sparse gradient has no second derivative")
        self._gradients = [gradient for gradient, *_ in reached]
        self._parameters = [parameter for _, parameter, *_ in reached]
        self._roots = [_inverse_root(p, parameter) for _, parameter, p, _ in reached]
        self._decay = [decay for *_, decay in reached]
        self._curved = [i for i, gradient in enumerate(self._gradients) if gradient.requires_grad]

    def random(self, generator: torch.Generator | None) -> list[Tensor]:
        """A vector of normal numbers."""
        return [
            torch.randn(
                p.shape,
                generator=generator,
                dtype=_work_type(p),
                device=p.device if generator is None else generator.device,
            ).to(p.device)
            for p in self._parameters
        ]

    def product(self, vector: list[Tensor]) -> list[Tensor]:
        """The matrix times ``vector``."""
        moved = [root * piece for root, piece in zip(self._roots, vector, strict=True)]
        images = [decay * piece for decay, piece in zip(self._decay, moved, strict=True)]
        if self._curved:
            outputs = [self._gradients[i] for i in self._curved]
            seeds = [moved[i].to(self._gradients[i].dtype) for i in self._curved]
            second = _differentiated(outputs, self._parameters, seeds, retain_graph=True)
            images = [
                image if h is None else image + h.to(image.dtype) for image, h in zip(images, second, strict=True)
            ]
        return [root * image for root, image in zip(self._roots, images, strict=True)]


def _work_type(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


def _inverse_root(preconditioner: Tensor | float, parameter: Tensor) -> Tensor | float:
    if isinstance(preconditioner, Tensor):
        return preconditioner.detach().to(parameter.device, _work_type(parameter).to_real()).rsqrt()
    return 1 / math.sqrt(preconditioner)


def _goes_through_once(loss: Tensor) -> bool:
    """Whether a function that is ``once_differentiable`` is on the way: what it leaves out raises nothing."""
    nodes: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
        code = getattr(backward, "__code__", None)
        if code is not None and code.co_name == "wrapper" and code.co_filename == autograd_function.__file__:
            return True
        seen.add(node)
        nodes.extend(following for following, _ in node.next_functions)
    return False


def _differentiated(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], seeds: Sequence[Tensor] | None, **how: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of ``outputs``; ``None`` for what does not lead to them."""
    try:
        with torch.enable_grad():
            return torch.autograd.grad(outputs, inputs, seeds, allow_unused=True, **how)
    except RuntimeError as error:  # of autograd: no second derivative, or no memory for it
        what = next(iter(str(error).splitlines()), type(error).__name__)
        raise CurvatureError(f"the gradient could not be differentiated ({what})") from error
