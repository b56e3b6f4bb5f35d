"""MNIST on the command line of Lightning, with every callback from a YAML file and no line of code for it.

python demos/cli_mnist.py fit --config demos/config.yaml
python demos/cli_mnist.py fit --config demos/config.yaml --model.lr 0.01 --trainer.max_epochs 3
python demos/cli_mnist.py fit --config demos/config.yaml --trainer.callbacks+=lightning_tuning.TuningReport
lightning-tuning check --config demos/config.yaml
"""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from mnist_data import MIRRORS, Batches, load_digits
from mnist_nets import relu_net
from mnist_training import Classifier, quieten
from torch.optim import AdamW

from lightning_tuning.functional import split_decay_groups


class LitMnist(Classifier):
    """Linear layers with ReLU between them; ``self.net`` is the net.

    Args:
        depth: number of linear layers.
        width: of the hidden ones.
        lr: learning rate of AdamW.
        weight_decay: of the weights; biases have none.
    """

    def __init__(self, depth: int = 4, width: int = 128, lr: float = 1e-3, weight_decay: float = 0.01) -> None:
        net = relu_net(depth, width)
        super().__init__(net, lambda _: AdamW(split_decay_groups(net, weight_decay), lr=lr))


class MnistData(pl.LightningDataModule):
    """The digits in memory, shuffled in each epoch.

    Args:
        data_dir: folder of the four IDX files. Default: where they usually lie, or a download.
        images: how many to train on.
        batch_size: of training.
        download: whether missing files may be fetched; without them scikit-learn's small digits are taken.
    """

    def __init__(
        self, data_dir: str | None = None, images: int = 20_000, batch_size: int = 64, download: bool = True
    ) -> None:
        super().__init__()
        self.data_dir, self.images, self.batch_size, self.download = data_dir, images, batch_size, download

    def setup(self, stage: str) -> None:
        """Read the files."""
        folder = None if self.data_dir is None else Path(self.data_dir)
        self.digits = load_digits(folder, mirrors=MIRRORS if self.download else ())

    def train_dataloader(self) -> Batches:
        """The first ``images`` of the training images."""
        return Batches(self.digits.train.first(self.images), self.batch_size, shuffle_seed=0)

    def val_dataloader(self) -> Batches:
        """All of the validation images."""
        return Batches(self.digits.val, 1000)

    def test_dataloader(self) -> Batches:
        """All of the test images."""
        return Batches(self.digits.test, 1000)


if __name__ == "__main__":
    quieten()
    torch.set_num_threads(1)
    LightningCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,  # which would write a config.yaml into this folder
    )
