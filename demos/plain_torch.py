"""A script that knows no Lightning: takes exported weights to the test images, or goes on to train from the four keys.

    python demos/plain_torch.py evaluate DIGITS FILE:PREFIX ...
    python demos/plain_torch.py resume DIGITS FILE RESULT EPOCHS STEPS

``demos/saving.py`` runs it in a process of its own, and leaves the digits in a file. It prints JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from mnist_data import Batches, Split
from mnist_nets import CLASSES, healthy_net
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from lightning_tuning.functional import load_state

BATCH_SIZE, RATE, SEED = 64, 3e-3, 0
LOADS = 7


def net() -> nn.Sequential:
    """Two convolutions with batch norm and a wide hidden layer: .8 million weights."""
    return nn.Sequential(*healthy_net()[:-1], nn.Linear(32 * 49, 512), nn.ReLU(), nn.Linear(512, CLASSES))


def schedule(optimizer: Optimizer, steps: int) -> OneCycleLR:
    """Up to :data:`RATE` and down again; AdamW's own momentum stays."""
    return OneCycleLR(optimizer, RATE, total_steps=steps, cycle_momentum=False)


def accuracy(model: nn.Module, images: Split) -> float:
    """Of the test images that are told right, 0 to 1."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(-1) == y).sum()) for x, y in Batches(images, 1000))
    return right / len(images)


def evaluate(digits: dict[str, Split], path: Path, prefix: str | None) -> dict[str, float]:
    """Accuracy of the net in ``path``, and seconds that it takes to load it: the median of several times."""
    model, seconds = net(), []
    for _ in range(LOADS):
        start = time.perf_counter()
        load_state(path, model, prefix=prefix)
        seconds.append(time.perf_counter() - start)
    if path.name.count(".") == 1 and path.suffix == ".pth":  # a bare state dict: torch alone is enough
        model = net()
        model.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return {"accuracy": accuracy(model, digits["test"]), "seconds": statistics.median(seconds)}


def resume(digits: dict[str, Split], path: Path, result: Path, epochs: int, steps: int) -> dict[str, object]:
    """Train on from ``path`` for the rest of ``epochs``, write the weights to ``result``, and tell the losses."""
    state = torch.load(path, weights_only=True)
    model = net()
    optimizer = AdamW(model.parameters(), lr=1.0)  # a rate that the state replaces
    scheduler = schedule(optimizer, steps)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    batches = Batches(digits["train"], BATCH_SIZE, shuffle_seed=SEED)
    done = state["iteration"] // len(batches)
    for _ in range(done):
        next(iter(batches))  # the orders of the epochs that were
    losses = []
    for _ in range(done, epochs):
        for inputs, labels in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    torch.save(model.state_dict(), result)
    return {"iteration": state["iteration"], "losses": losses, "accuracy": accuracy(model, digits["test"])}


def main(arguments: list[str]) -> int:
    """Do what the command line says."""
    torch.set_num_threads(1)
    what, stored, *rest = arguments
    digits = {part: Split(*tensors) for part, tensors in torch.load(stored, weights_only=True).items()}
    told: dict[str, object]
    if what == "evaluate":
        pairs = [pair.rpartition(":")[::2] for pair in rest]
        told = {path: evaluate(digits, Path(path), prefix or None) for path, prefix in pairs}
    else:
        path, result, *counts = rest
        told = resume(digits, Path(path), Path(result), *map(int, counts))
    told["without Lightning"] = not any(name.partition(".")[0] == "lightning" for name in sys.modules)
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
