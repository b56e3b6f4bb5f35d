"""Why a number of a training step is not finite: every cause that a finding may name, and what to change."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CAUSES", "GROWN", "Cause"]


class Cause(NamedTuple):
    """One value of ``evidence["cause"]`` in LT701, LT702 and LT703.

    Attributes:
        meaning: what happened.
        remedy: what to change.
    """

    meaning: str
    remedy: str


CAUSES = {
    "bad-sample": Cause(
        "a sample of the batch was not finite",
        "mend or filter the data; `NanLossGuard(action='skip')` drops such batches.",
    ),
    "bad-weights": Cause(
        "parameters or buffers were not finite before the step",
        "start again from the last good checkpoint, with a lower learning rate or clipped gradients.",
    ),
    "log-of-zero": Cause(
        "a logarithm of exactly 0",
        "bound it below: `x.clamp_min(eps).log()`, or take `log_softmax`/`logsigmoid` of the logits.",
    ),
    "log-of-negative": Cause(
        "a logarithm of a number below its domain",
        "keep the argument positive: `F.softplus(x)`, or `x.clamp_min(eps)`.",
    ),
    "exp-overflow": Cause(
        "an exponential above what its number format holds",
        "bound the exponent (`x.clamp_max(20)`), or use `logsumexp`, `softmax`, `log_softmax`.",
    ),
    "overflow": Cause(
        "a result above what its number format holds",
        "lower the learning rate, clip with `Trainer(gradient_clip_val=...)`, or normalize what goes in.",
    ),
    "half-overflow": Cause(
        "a result above 65504, the largest number of float16",
        "`Trainer(precision='bf16-mixed')`, or run this operation in float32.",
    ),
    "division-by-zero": Cause("a division by exactly 0", "divide by `x.clamp_min(eps)` or `x + eps`."),
    "sqrt-at-zero": Cause(
        "the gradient of a square root at 0, which is infinite",
        "put the eps inside: `(x + eps).sqrt()`, or `x.clamp_min(eps).sqrt()`.",
    ),
    "norm-at-zero": Cause(
        "the gradient of a norm at the zero vector, which does not exist",
        "put an eps inside: `(x.square().sum(-1) + eps).sqrt()`, or use `F.normalize`.",
    ),
    "pow-domain": Cause(
        "a power or root outside its domain, or its gradient at 0", "keep the base above 0: `x.clamp_min(eps) ** p`."
    ),
    "trig-domain": Cause(
        "an inverse function (`acos`, `atanh`, `erfinv`) outside its domain, or its gradient at the edge",
        "stay off the edge: `x.clamp(-1 + eps, 1 - eps)`.",
    ),
    "gamma-pole": Cause(
        "`lgamma`, `digamma` or `polygamma` at 0 or at a negative whole number",
        "keep the argument positive: `F.softplus(x) + eps`.",
    ),
    "singular-matrix": Cause(
        "the logarithm of the determinant of a matrix that has none but 0, or the gradient of its factors",
        "add a little to the diagonal: `a + eps * torch.eye(n)`.",
    ),
    "repeated-eigenvalues": Cause(
        "the gradient of eigenvectors or singular vectors where values coincide; it does not exist",
        "use the values without the vectors (`eigvalsh`, `svdvals`), `.detach()` the vectors, or break the tie: "
        "`a + torch.diag(eps * torch.arange(n))`.",
    ),
    "masked-softmax": Cause(
        "a softmax over a row that is masked throughout",
        "leave one position unmasked in every row, or mask with a large finite number instead of -inf.",
    ),
    "empty-reduction": Cause(
        "a mean, deviation or the like over too few values",
        "guard the empty case: `x.mean() if x.numel() else x.sum()`.",
    ),
    "all-targets-ignored": Cause(
        "a loss averaged over targets that are all ignored", "`reduction='sum'` divided by `valid.sum().clamp_min(1)`."
    ),
    "target-too-long": Cause(
        "a CTC loss whose target does not fit into its input, so that its probability is 0",
        "`F.ctc_loss(..., zero_infinity=True)`, or leave such samples out; repeated labels need one step more each.",
    ),
    "where-branch": Cause(
        "a branch that was discarded in the forward pass and still got a gradient (0 * inf)",
        "mask what goes in too: `torch.where(ok, torch.where(ok, x, 1).log(), 0)`.",
    ),
    "constant": Cause(
        "a value that was not finite when it was written down, or came from outside torch",
        "put a finite number in its place (for a mask `torch.finfo(x.dtype).min`), or keep it from reaching the loss.",
    ),
    "exploding-gradient": Cause(
        "an overflow, and gradients had grown more than tenfold just before",
        "clip: `Trainer(gradient_clip_val=...)`, lower the learning rate, or warm it up.",
    ),
    "learning-rate": Cause(
        "an overflow, and every update before had moved the weights by a quarter of their size or more",
        "lower the learning rate, tenfold at first; warm it up if only the first steps are too large.",
    ),
    "stale-gradient": Cause(
        "an overflow, and gradients were never set back: each step adds to all before",
        "call `optimizer.zero_grad()` before every `self.manual_backward(loss)` that starts a new update; under "
        "automatic optimization leave `optimizer_zero_grad` to Lightning.",
    ),
    "sum-reduction": Cause(
        "an overflow of a loss that is the sum over many samples, by itself or through updates that are as many times "
        "too large",
        "average over the samples: `reduction='mean'`, or `loss / len(x)`.",
    ),
    "unknown-op": Cause(
        "an operation whose domain is not known here",
        "look at what goes into the named operation, and keep it within its domain.",
    ),
    "not-reproduced": Cause(
        "repeated, the step was finite every time",
        "try `Trainer(detect_anomaly=True)`, which names the operation when it happens in a backward pass, and "
        "`Trainer(deterministic=True)`; look at what the step reads from outside the module.",
    ),
    "unknown": Cause(
        "the step was not repeated: not asked for, not possible, or done often enough",
        "mend what is named; `NanLossGuard(replay=True)` repeats the first bad steps and names the operation.",
    ),
}
"""The one list of causes; the keys stay, so that programs can rely on them."""

GROWN = frozenset(
    {
        "exp-overflow",
        "exploding-gradient",
        "half-overflow",
        "learning-rate",
        "overflow",
        "stale-gradient",
        "sum-reduction",
    }
)
"""Causes that took their time: what was odd before they broke the run may be why they did."""
