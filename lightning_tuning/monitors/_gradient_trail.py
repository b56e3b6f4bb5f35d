"""The gradients of one optimizer, from one of its updates to the next."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.weak import TensorWeakRef

from lightning_tuning.rules.stale_gradient import PERSISTENCE

__all__ = ["Trail"]

_WITNESSES = 4
"""Gradients whose values are compared before anything is said: the smallest, for they are copied."""


@dataclasses.dataclass
class _Left:
    """A gradient that the last update left behind: not held, or memory would not be free where it is dropped.

    Attributes:
        parameter: whose it is.
        gradient: the tensor itself.
        version: how often it had been written into when a backward pass or the update was over.
        is_added_to: a later backward pass has added to it.
    """

    parameter: nn.Parameter
    gradient: TensorWeakRef
    version: int
    is_added_to: bool = False

    @property
    def is_there(self) -> bool:
        """It is the parameter's gradient still."""
        return self.parameter.grad is not None and self.parameter.grad is self.gradient()

    @property
    def value(self) -> Tensor:
        """Of the gradient that the parameter has now."""
        gradient = self.parameter.grad
        return self.parameter.new_zeros(()) if gradient is None else gradient.detach()


@dataclasses.dataclass
class _Witness:
    """What a gradient was when nobody was to touch it, and whether it was the same when it was added to; unread."""

    left: _Left
    copy: Tensor
    proof: Tensor

    @classmethod
    def of(cls, left: _Left) -> _Witness:
        copy = left.value.clone()
        return cls(left, copy, copy.any())

    def compare(self) -> None:
        self.proof = self.proof & (self.left.value == self.copy).all()

    def follow(self) -> None:
        self.copy = self.left.value.clone()


class Trail:
    """Tells gradients that were set back from those that were only added to, by identity and version counter.

    A gradient that an update leaves behind is *stale* if it is the same tensor at the next update, a backward pass has
    added to it, and nothing else has written into it before the last of them. Setting it to ``None``, to zero or to
    another tensor clears it, wherever that is done before it is added to; so does scaling it by hand, which means that
    it is kept on purpose. What never was added to is not judged: two updates from one gradient, another optimizer's
    backward pass.

    ``p.grad.data.zero_()`` shows in no version counter. So before the last update that is needed to say so the values
    of a few gradients are copied and compared, unread until then.

    Args:
        optimizer: whose they are.
        where: what a finding calls it.

    Attributes:
        updates: seen.
        in_a_row: of these the last, with stale gradients.
        stale: the parameters whose gradients were at the last update.
        total: parameters that had a gradient then.
        is_acquitted: what the versions told was not so; nothing more is looked at.
    """

    def __init__(self, optimizer: Optimizer, where: str) -> None:
        self.optimizer, self.where = optimizer, where
        self.updates = self.in_a_row = self.total = 0
        self.stale: list[nn.Parameter] = []
        self.is_acquitted = False
        self._left: list[_Left] = []
        self._witnesses: list[_Witness] = []

    def on_update(self) -> bool:
        """The optimizer has stepped; true if its gradients were stale often enough to say so, which reads a number."""
        if self.is_acquitted:
            return False
        with _unseen():
            self.updates += 1
            self.stale = [left.parameter for left in self._left if left.is_added_to and left.is_there]
            self.in_a_row = self.in_a_row + 1 if self.stale else 0
            if self.in_a_row >= PERSISTENCE:
                proofs = [witness.proof for witness in self._witnesses if witness.left.is_added_to]
                is_proven = bool(proofs) and bool(torch.stack([proof.to(proofs[0].device) for proof in proofs]).any())
                self.is_acquitted = not is_proven
                self.forget()
                return is_proven
            self._look()
            return False

    def before_backward(self) -> None:
        """Something is about to be added: is what was left behind still there, and as it was?"""
        if self._left:
            with _unseen():
                self._left = [left for left in self._left if left.is_there and left.value._version == left.version]
                for witness in self._witnesses:
                    witness.compare()

    def after_backward(self) -> None:
        """What was written since is an addition."""
        if self._left:
            with _unseen():
                for left in self._left:
                    gradient = left.parameter.grad
                    if gradient is not None and gradient._version != left.version:
                        left.version, left.is_added_to = gradient._version, True
                for witness in self._witnesses:
                    witness.follow()

    def forget(self) -> None:
        """Let go of the gradients."""
        self._left, self._witnesses = [], []

    def _look(self) -> None:
        """Remember what the update leaves behind."""
        held = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.total = len(held)
        self._left = [_Left(p, TensorWeakRef(p.grad), p.grad._version) for p in held if not p.grad.is_sparse]
        self._witnesses = []
        if self.in_a_row == PERSISTENCE - 1:
            stale = {id(parameter) for parameter in self.stale}
            known = [left for left in self._left if id(left.parameter) in stale]
            known.sort(key=lambda left: left.parameter.numel())
            self._witnesses = [_Witness.of(left) for left in known[:_WITNESSES]]


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """Neither autograd nor a recorder of the step sees it."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        yield
