"""Looks at where dropout stands, and how strong it is (LT303-LT306)."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_tuning.findings import Finding
from lightning_tuning.rules.dropout_before_saturation import dropouts_before_saturation
from lightning_tuning.rules.dropout_on_output import dropouts_on_output
from lightning_tuning.rules.dropout_rate import dropout_rates
from lightning_tuning.rules.elementwise_dropout_on_maps import elementwise_dropouts_on_maps
from lightning_tuning.runtime import Check, FirstStep

__all__ = ["DropoutCheck"]


class DropoutCheck(Check):
    """Looks once, at the first training step, where dropout stands and how strong it is (LT303-LT306).

    Why: torch's ``p`` is the probability of a zero (LT303: ``p >= 1`` is an error, ``p > .5`` a warning, ``p > .2`` on
    the input itself worth a word); zeros behind the last weight layer go into the loss as errors that no weight can
    answer for (LT304); zeros before a sigmoid or softmax are none behind it (LT305); single dropped pixels of a feature
    map are told by their neighbours (LT306, said of runs that do not learn).

    Judged on the dataflow of the real step: modules, functional calls, and the dropout inside attention and stacked
    recurrent layers alike; only what is switched on and reaches a loss. Alpha dropout, stochastic depth, masks that are
    augmentation, and residual branches are no findings. Changes nothing; costs nothing after the first step.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DropoutCheck()], logger=False, accelerator="cpu")

    Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting".
    """

    def look(self, step: FirstStep) -> Iterable[Finding]:
        """What is wrong with the dropouts of the step."""
        return [
            *dropout_rates(step.graph),
            *dropouts_on_output(step.graph),
            *dropouts_before_saturation(step.graph),
            *elementwise_dropouts_on_maps(step.graph),
        ]
