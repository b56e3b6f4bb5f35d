"""Initial weights for those who like to say them in the module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule
from torch import nn

from lightning_tuning.functional.initialization import SchemeName
from lightning_tuning.functional.layer_initialization import initialize_layer_
from lightning_tuning.runtime.weight_hook import WeightHook

__all__ = ["WeightInitMixin"]


class WeightInitMixin(LightningModule):
    """Gives a module the hook :meth:`init_weight`, called for each of its layers when the first fit begins.

    Children first, as ``nn.Module.apply`` does it, and the module itself last; right behind ``configure_model``: before
    the optimizers are made, a checkpoint is restored (which replaces what was drawn) and DDP sends rank 0's weights to
    all. A second fit goes on with the trained weights. The draws of each layer come from generators seeded by the run's
    seed and the layer's name: the same on every rank, whatever its own seed, and no other random number of the run
    moves.

    What somebody has set is not touched, unless ``init_overwrite`` is true: the whole model, if its weights were loaded
    before the fit (``load_from_checkpoint``, ``load_state_dict``), and single layers whose weight was written to since
    they were built, such as a pretrained backbone's. Other parameters of a part that was loaded (norms, embeddings)
    cannot be told from fresh ones: return early for them.

    With a :class:`~lightning_tuning.WeightInitCallback` beside it: what :meth:`init_weight` fills stays, the callback
    does the rest. (A callback that the mixin brings along, through ``configure_callbacks``, makes the calls: a module
    that overrides that calls ``super()``.)

    Attributes:
        init_scheme: of the default :meth:`init_weight`. Default ``"he"``.
        init_overwrite: default ``False``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Net(WeightInitMixin, LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)
        ...
        ...     def init_weight(self, layer):
        ...         if isinstance(layer, nn.Embedding):  # not `type(layer) ==`: derived layers count too
        ...             nn.init.normal_(layer.weight, std=0.02)
        ...         else:
        ...             super().init_weight(layer)
        >>> net = Net()
        >>> net.apply(net.init_weight)  # a fit does this by itself
        Net(
          (embed): Embedding(10, 4)
          (head): Linear(in_features=4, out_features=2, bias=True)
        )
        >>> net.head.bias.tolist()
        [0.0, 0.0]
    """

    init_scheme: SchemeName = "he"
    init_overwrite: bool = False
    init_was_loaded: bool = False

    def init_weight(self, layer: nn.Module) -> None:
        """Initialise the parameters that ``layer`` itself owns, in place; runs without autograd.

        Default: what :class:`~lightning_tuning.WeightInitCallback` does with ``scheme=self.init_scheme``, by
        :func:`~lightning_tuning.functional.initialize_layer_`: weights of linear, convolutional, recurrent and
        attention layers, biases 0, an LSTM's forget gates 1. Embeddings and normalization stay as torch made them.

        Args:
            layer: one of ``self.modules()``; those it contains have had their turn.
        """
        initialize_layer_(layer, self.init_scheme)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As ever; and remember it: loaded weights are not initialised."""
        result = super().load_state_dict(*args, **kwargs)
        self.init_was_loaded = True
        return result

    def configure_callbacks(self) -> Sequence[Callback]:
        """Bring the callback along that calls :meth:`init_weight`."""
        inherited = super().configure_callbacks()
        return [*(inherited if isinstance(inherited, Sequence) else [inherited]), WeightHook("WeightInitMixin")]
