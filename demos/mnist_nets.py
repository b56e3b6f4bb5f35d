"""The nets of these demos: images ``[N, 1, 28, 28]`` to logits ``[N, 10]``."""

from __future__ import annotations

from torch import Tensor, nn

CLASSES = 10


def healthy_net() -> nn.Sequential:
    """Two convolutions with batch norm and a linear head: 98.8 % of the test images after two epochs."""
    return nn.Sequential(*_conv_block(1, 16, kernel=5), *_conv_block(16, 32), nn.Flatten(), nn.Linear(32 * 49, CLASSES))


def relu_net(depth: int, width: int) -> nn.Sequential:
    """``depth`` linear layers with ReLU between, as PyTorch initialises them."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(28 * 28, width), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def narrow_dropout_net(blocks: int, width: int, p: float) -> nn.Sequential:
    """Convolution blocks, each with a dropout that the next one's batch norm gets to see."""
    layers: list[nn.Module] = []
    for block in range(blocks):
        layers += [*_conv_block(width if block else 1, width, stride=2 if block < 2 else 1), nn.Dropout(p)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 49, CLASSES))


class RowReader(nn.Module):
    """A ReLU RNN over the 28 rows of an image; its last state is classified."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.rnn = nn.RNN(28, width, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Read ``images`` from top to bottom."""
        states, _ = self.rnn(images.squeeze(1))  # [N, 28, width]
        return self.head(states[:, -1])


def _conv_block(channels_in: int, channels: int, kernel: int = 3, stride: int = 2) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    ]
