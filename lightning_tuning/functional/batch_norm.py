"""The running statistics of batch norms, taken anew by the weights as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from lightning_tuning.functional.batch_renorm import BatchRenorm

__all__ = ["cumulative_statistics", "recalibrate_batch_norm", "tracking_batch_norms"]


def tracking_batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms of ``module`` that keep running statistics, by dotted name, each once.

    Example:
        >>> [*tracking_batch_norms(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)))]
        ['0']
    """
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None and not is_lazy(part.running_mean)
    }


@contextmanager
def cumulative_statistics(norms: Sequence[_BatchNorm], *, reset: bool = True) -> Iterator[None]:
    """Within it ``norms`` average the statistics of what they are given, every call with the same weight.

    They are put into training mode with ``momentum=None``, torch's cumulative average; mode and momentum are put back,
    the statistics stay. Statistics that a failure left half done are put back too. A ``BatchRenorm`` normalizes by the
    batch alone meanwhile, since it has no running statistics yet to be corrected towards.

    Args:
        norms: those to be estimated.
        reset: begin with no statistics. ``False`` goes on with those that are there, counted by
            ``num_batches_tracked``.
    """
    before = [(norm, norm.training, norm.momentum, [buffer.clone() for buffer in norm.buffers()]) for norm in norms]
    bounds = [(norm, norm.r_max, norm.d_max) for norm in norms if isinstance(norm, BatchRenorm)]
    try:
        for norm in norms:
            if reset:
                norm.reset_running_stats()
            norm.training, norm.momentum = True, None
        for renorm, _, _ in bounds:
            renorm.r_max, renorm.d_max = 1.0, 0.0
        yield
    except BaseException:
        with torch.no_grad():
            for norm, _, _, values in before:
                for buffer, value in zip(norm.buffers(), values, strict=True):
                    buffer.copy_(value)
        raise
    finally:
        for norm, training, momentum, _ in before:
            norm.training, norm.momentum = training, momentum
        for renorm, r_max, d_max in bounds:
            renorm.r_max, renorm.d_max = r_max, d_max


def recalibrate_batch_norm(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Callable[[Any], Any] | None = None,
    exclude: Iterable[str] = (),
) -> int:
    """Take the running statistics of all batch norms in ``module`` anew: the mean over ``batches``, dropout off.

    The running averages of training lag behind the weights, weigh the last few batches most, and were taken with
    dropout on, which evaluation switches off. Each statistic is reset and becomes the plain mean over all batches of
    the batch's mean and unbiased variance. Everything but the batch norms is in evaluation mode meanwhile; modes and
    momenta are put back.

    ``torch.optim.swa_utils.update_bn`` does the same with the whole model in training mode, so that dropout is on in
    the estimate, and its input is always ``batch[0]``; hence this function.

    Args:
        module: with batch norms; one without is left as it is, and no batch is drawn.
        batches: inputs, on the device of ``module``. Some 2,000 values per channel bring the error of a mean to 2 % of
            a standard deviation.
        forward: runs ``module`` on a batch. Default: ``module(batch)``, or ``module(batch[0])`` for a tuple or list.
        exclude: names of batch norms that keep their statistics (frozen ones), and are in evaluation mode meanwhile.

    Returns:
        The number of batch norms whose statistics are new.

    Raises:
        ValueError: if there is no batch; the statistics are as before then, and so they are if ``forward`` raises.

    Example:
        >>> net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(1))
        >>> recalibrate_batch_norm(net, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0]])])
        1
        >>> net[1].running_mean, net[1].running_var
        (tensor([3.]), tensor([2.]))

    Source: Wu and Johnson 2021, Rethinking "Batch" in BatchNorm, section 3 (PreciseBN); Li et al. 2019, Understanding
        the Disharmony between Dropout and Batch Normalization, section 5.
    """
    left_alone = set(exclude)
    norms = [norm for name, norm in tracking_batch_norms(module).items() if name not in left_alone]
    if not norms:
        return 0
    modes = [(part, part.training) for part in module.modules()]
    count = 0
    try:
        for part, _ in modes:
            part.training = False
        with torch.no_grad(), cumulative_statistics(norms):
            for batch in batches:
                count += 1
                if forward is not None:
                    forward(batch)
                else:
                    module(batch[0] if isinstance(batch, tuple | list) and isinstance(batch[0], Tensor) else batch)
            if not count:
                raise ValueError("`batches` must have at least one batch, got none.")
    finally:
        for part, training in modes:
            part.training = training
    return len(norms)
