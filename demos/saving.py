"""One run, saved in four files: what is in them, what they weigh, and who can go on from them without Lightning."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mnist_data import Batches
from mnist_training import Bench
from plain_torch import BATCH_SIZE, RATE, net, schedule
from themes import Curve, Theme, main, new_figure
from torch import Tensor
from torch.optim import AdamW

from lightning_tuning import ExportState

DESCRIPTION = (
    "A net is trained for three epochs. Beside each checkpoint of Lightning's lie its weights as .pth and safetensors, "
    "and the four keys model, optimizer, scheduler, iteration. A script without Lightning reads them in a process of "
    "its own; from the four keys of the first epoch it trains on to the end."
)
IMAGES, EPOCHS = 15_000, 3
SCRIPT = Path(__file__).resolve().parent / "plain_torch.py"


class File(NamedTuple):
    """A file of the last epoch: how it ends, for whom it is, and the prefix of its weights."""

    ending: str
    name: str
    prefix: str = ""


FILES = (
    File("ckpt", "Lightning's .ckpt", "net."),
    File("training.pth", "four keys, .pth"),
    File("pth", "weights, .pth"),
    File("safetensors", "weights, .safetensors"),
)


def tell(bench: Bench) -> Theme:
    """Train once with every export attached, then ask the other process."""
    with tempfile.TemporaryDirectory() as name:
        return _tell(bench, Path(name))


def _tell(bench: Bench, folder: Path) -> Theme:
    train, kept = bench.images(IMAGES), folder / "kept"
    digits = {part: (split.images, split.labels) for part, split in (("train", train), ("test", bench.digits.test))}
    torch.save({part: tuple(map(torch.clone, tensors)) for part, tensors in digits.items()}, folder / "digits.pth")
    curve, steps = Curve(), EPOCHS * len(Batches(train, BATCH_SIZE, shuffle_seed=0))
    trained = bench.train(
        net,
        train,
        lambda parameters: AdamW(parameters, lr=RATE),
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        schedule=schedule,
        callbacks=[
            curve,
            ModelCheckpoint(kept, filename="{epoch}", save_top_k=-1),
            ExportState(prefix_strip="net."),
            ExportState(format="safetensors", prefix_strip="net."),
            ExportState("{checkpoint}.training.pth", contents="training", prefix_strip="net."),
        ],
    )
    last = f"epoch={EPOCHS - 1}"
    paths = {file.ending: kept / f"{last}.{file.ending}" for file in FILES}
    told = _ask("evaluate", folder / "digits.pth", *(f"{paths[file.ending]}:{file.prefix}" for file in FILES))
    told = {file.ending: {**told[str(paths[file.ending])], "alone": told["without Lightning"]} for file in FILES}
    counts = (str(EPOCHS), str(steps))
    resumed = _ask("resume", folder / "digits.pth", kept / "epoch=0.training.pth", folder / "resumed.pth", *counts)
    differences = _differences(torch.load(folder / "resumed.pth"), trained.module.net.state_dict())
    sizes = {ending: path.stat().st_size / 1e6 for ending, path in paths.items()}
    weights = sum(t.nbytes for t in trained.module.net.state_dict().values()) / 1e6
    rows = [("in the run itself, with Lightning", "", "", trained.percent)]
    rows += [
        (
            file.name,
            f"{sizes[file.ending]:.2f} MB",
            f"{1000 * told[file.ending]['seconds']:.1f} ms",
            _percent(told[file.ending]["accuracy"]),
        )
        for file in FILES
    ]
    rows.append(("trained on without Lightning", "", "", _percent(resumed["accuracy"])))
    return Theme(
        columns=("file", "size", "load", "test accuracy"),
        rows=rows,
        figure=_draw(sizes, weights, told, curve, resumed),
        verdict=_verdict(trained.accuracy, sizes, told, resumed, differences),
    )


def _ask(what: str, *arguments: object) -> dict[str, Any]:
    """What the script without Lightning says."""
    command = [sys.executable, "-W", "ignore", str(SCRIPT), what, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own script
    if ended.returncode:
        raise RuntimeError(f"{SCRIPT.name} {what} failed:\n{ended.stderr}")
    return dict(json.loads(ended.stdout))


def _differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two nets' weights and statistics."""
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in other)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _verdict(
    accuracy: float, sizes: dict[str, float], told: dict[str, Any], resumed: dict[str, Any], difference: float
) -> str:
    times, reads = sizes["ckpt"] / sizes["pth"], all(abs(one["accuracy"] - accuracy) < 1e-6 for one in told.values())
    alone = all(one["alone"] for one in told.values()) and resumed["without Lightning"]
    exact = "bit for bit" if difference == 0 else f"but for differences of up to {difference:.1e}"
    return (
        f"Every file gives {'the accuracy of the run' if reads else 'NOT the accuracy of the run'}, in a process that "
        f"{'never imported' if alone else 'DID import'} Lightning. The checkpoint has {times:.1f} times "
        f"the size of the weights. The run that went on from the four keys of the first epoch (iteration "
        f"{resumed['iteration']}) ended like the unbroken one, {exact}."
    )


def _draw(
    sizes: dict[str, float], weights: float, told: dict[str, Any], curve: Curve, resumed: dict[str, Any]
) -> Figure:
    figure = new_figure(12.0, 4.2)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.25, 1, 1.5])
    names = [file.name for file in FILES]
    held = [min(weights, sizes[file.ending]) for file in FILES]
    rest = [sizes[file.ending] - own for file, own in zip(FILES, held, strict=True)]
    left.barh(names, held, color="tab:blue", label="weights")
    left.barh(names, rest, left=held, color="tab:orange", label="optimizer and the rest")
    _label(left, [f"{sizes[file.ending]:.1f}" for file in FILES], [sizes[file.ending] for file in FILES])
    left.set(xlabel="size of the file [MB]", title="What it weighs")
    left.legend(fontsize=8, loc="lower right")
    times = [1000 * told[file.ending]["seconds"] for file in FILES]
    middle.barh(names, times, color="tab:green")
    _label(middle, [f"{one:.0f}" if one >= 10 else f"{one:.1f}" for one in times], times)
    middle.set(xlabel="until the net has its weights [ms]", title="How long it takes to load", yticklabels=[])
    for axes in (left, middle):
        axes.invert_yaxis()
        axes.margins(x=0.15)
    done, ours = resumed["iteration"], Curve()
    ours.losses = curve.losses[:done] + resumed["losses"]
    right.plot(curve.smooth(), color="tab:gray", linewidth=4, alpha=0.6, label="Lightning, unbroken")
    right.plot(range(done, len(ours.losses)), ours.smooth()[done:], color="tab:red", label="plain torch, from there on")
    right.axvline(done, color="black", linestyle=":", linewidth=1)
    right.annotate(
        "four keys saved", (done, 1), (4, -12), xycoords=("data", "axes fraction"), textcoords="offset points"
    )
    right.set(xlabel="step", ylabel="training loss, mean of 20 steps", yscale="log", title="Training goes on")
    right.legend(fontsize=8, loc="lower left")
    return figure


def _label(axes: Axes, texts: list[str], ends: list[float]) -> None:
    for place, (text, end) in enumerate(zip(texts, ends, strict=True)):
        axes.annotate(text, (end, place), (3, 0), textcoords="offset points", va="center", fontsize=9)


if __name__ == "__main__":
    sys.exit(main("saving", DESCRIPTION, tell))
