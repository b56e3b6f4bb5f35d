"""Five ways to spoil a training run, each told twice: without the callback that helps, and with it.

Every run is seeded, and trains and tests on real digits; what is printed was measured a moment before.
"""

from __future__ import annotations

import dataclasses
import math

import lightning.pytorch as pl
from mnist_nets import RowReader, healthy_net, narrow_dropout_net, relu_net
from mnist_training import Bench, Outcome
from rich.markup import escape
from spoils import Rates, accuracy_with_fresh_statistics, handmade_loss, with_grey_values, with_nan
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR

from lightning_tuning import (
    DropoutBNConflictWarning,
    GradientExplosionMonitor,
    NanLossGuard,
    PlateauLR,
    TuningError,
    WeightInitCallback,
)


@dataclasses.dataclass(frozen=True)
class Story:
    """A row of the closing table: test accuracies, what the callback said, and how long all runs of the story took."""

    name: str
    callback: str
    without: str
    cured: str
    said: str
    seconds: float


def said(outcome: Outcome, done: str = "") -> str:
    """The findings of a run, a line for each rule, and what was done, by default in the callbacks' own words."""
    places: dict[str, list[str]] = {}
    for finding in outcome.findings:
        places.setdefault(f"{finding.code} {finding.name}", []).append(finding.where or "the run")
    lines = [f"{rule} at {at[0]}{f' and {len(at) - 1} more' if at[1:] else ''}" for rule, at in places.items()]
    return "\n".join([*lines, *([done] if done else outcome.notes)]) or "no findings"


def nan(bench: Bench) -> Story:
    """Some images hold NaN; and a logarithm meets zero."""
    images = with_nan(bench.images(20_000))
    _open(
        bench,
        "nan",
        f"Four of {len(images)} training images came out of a broken file and hold NaN. One such batch, one update, "
        "and every weight is NaN.",
    )

    def run(*callbacks: pl.Callback) -> Outcome:
        return bench.train(healthy_net, images, AdamW, callbacks=callbacks)

    sick = run()
    _without(bench, sick)
    _with(bench, callback := 'NanLossGuard(action="skip")')
    guard = NanLossGuard(action="skip")
    cured = run(guard)
    _result(bench, cured, f"{sick.percent} -> {cured.percent}, for {guard.skipped} batches left out.")

    bench.say(
        "\nThe other classic: pixels from 0 to 255 as they come, and a cross entropy written by hand, -log(softmax). "
        "A probability underflows to 0. By default, NanLossGuard() ends the run before the update:\n"
    )
    try:
        bench.train(
            lambda: relu_net(2, 128),
            with_grey_values(bench.images(20_000)),
            lambda p: SGD(p, lr=0.01),
            loss=handmade_loss,
            callbacks=[NanLossGuard()],
        )
    except TuningError as error:
        line = error.finding and error.finding.source_line
        bench.say(f"The run ended with TuningError; the line to mend is {escape(line or 'unknown')}.")
    else:
        bench.say("No probability was 0 in this run.")
    return Story("nan", callback, sick.percent, cured.percent, said(cured), sick.seconds + cured.seconds)


def explosion(bench: Bench) -> Story:
    """A recurrent net reads the image row by row, at a learning rate that it survives only clipped."""
    _open(
        bench,
        "explosion",
        "A ReLU RNN reads each image row by row. While its learning rate is warmed up to .2 it learns; near the top "
        "the gradients explode.",
    )

    def run(*callbacks: pl.Callback, clip: float | None = None) -> Outcome:
        return bench.train(
            RowReader,
            bench.images(20_000),
            lambda p: SGD(p, lr=0.2, momentum=0.9),
            epochs=2,
            schedule=lambda o, steps: OneCycleLR(o, 0.2, total_steps=steps, div_factor=10, cycle_momentum=False),
            callbacks=callbacks,
            gradient_clip_val=clip,
        )

    sick = run()
    _without(bench, sick)
    _with(bench, callback := "GradientExplosionMonitor()")
    bench.say("It only watches, so this run goes like the one before:\n")
    watched = run(GradientExplosionMonitor())
    seconds = sick.seconds + watched.seconds
    clip = _suggested_clip(watched)
    if clip is None:
        _result(bench, watched, f"nothing exploded in this run, so there is nothing to clip: {watched.percent}.")
        return Story("explosion", callback, sick.percent, watched.percent, said(watched), seconds)
    bench.say(f"Test accuracy {watched.percent}. Its advice taken: Trainer(gradient_clip_val={clip})")
    cured = run(clip=clip)
    losses = f"{sick.train_loss:.3g} -> {cured.train_loss:.3g}"
    _result(bench, cured, f"{sick.percent} -> {cured.percent}; last training loss {losses}.")
    words = said(watched, f"gradient_clip_val={clip}, as it suggests")
    return Story("explosion", callback, sick.percent, cured.percent, words, seconds + cured.seconds)


def init(bench: Bench) -> Story:
    """Sixteen layers with PyTorch's default initial weights."""
    depth = 16
    _open(
        bench,
        "init",
        f"A ReLU net of {depth} linear layers with PyTorch's default weights, of a sixth of the variance that ReLU "
        "wants (He et al. 2015): after a few layers all images look alike, and gradients vanish.",
    )

    def run(*callbacks: pl.Callback) -> Outcome:
        return bench.train(
            lambda: relu_net(depth, 100), bench.images(20_000), lambda p: SGD(p, lr=0.05), epochs=2, callbacks=callbacks
        )

    sick = run()
    _without(bench, sick)
    _with(bench, callback := 'WeightInitCallback("auto")')
    treatment = WeightInitCallback("auto")
    cured = run(treatment)
    bench.say(escape(str(treatment.report_)))
    losses = f"{sick.train_loss:.3g} -> {cured.train_loss:.3g} (guessing: ln 10 = {math.log(10):.3g})"
    _result(bench, None, f"{sick.percent} -> {cured.percent}; last training loss {losses}.")
    return Story("init", callback, sick.percent, cured.percent, said(cured), sick.seconds + cured.seconds)


def plateau(bench: Bench) -> Story:
    """A constant rate, too high to settle."""
    _open(
        bench,
        "plateau",
        "SGD at a constant learning rate of .5: quick at first, then the updates are too large to settle, and the "
        "validation loss goes up and down.",
    )

    def run(*callbacks: pl.Callback) -> tuple[Outcome, Rates]:
        rates = Rates()
        outcome = bench.train(
            lambda: relu_net(2, 128),
            bench.images(20_000),
            lambda p: SGD(p, lr=0.5),
            epochs=8,
            batch_size=32,
            callbacks=[*callbacks, rates],
        )
        return outcome, rates

    sick, rates = run()
    _without(bench, sick)
    bench.say(f"{rates}")
    _with(bench, 'PlateauLR(monitor="val_loss", factor=0.2, patience=0)')
    cured, rates = run(PlateauLR(monitor="val_loss", factor=0.2, patience=0))
    bench.say(f"{rates}")
    losses = f"{sick.test_loss:.3g} -> {cured.test_loss:.3g}"
    _result(bench, cured, f"{sick.percent} -> {cured.percent}; test loss {losses}.")
    words = said(cured, f"learning rate {rates.journey()}")
    seconds = sick.seconds + cured.seconds
    return Story("plateau", 'PlateauLR(monitor="val_loss")', sick.percent, cured.percent, words, seconds)


def dropout_bn(bench: Bench) -> Story:
    """Dropout in front of batch norm, in a narrow net."""
    _open(
        bench,
        "dropout-bn",
        "Four narrow convolution blocks (8 channels), each with dropout p=.5 in front of the next one's batch norm: "
        "the variances that batch norm keeps are those of training, dropout on; the net is tested with dropout off.",
    )
    images = bench.images(20_000)

    def run(*callbacks: pl.Callback) -> Outcome:
        return bench.train(
            lambda: narrow_dropout_net(4, 8, p=0.5), images, lambda p: AdamW(p, lr=2e-3), callbacks=callbacks
        )

    sick = run()
    _without(bench, sick)
    _with(bench, callback := 'DropoutBNConflictWarning(on_conflict="disable")')
    treatment = DropoutBNConflictWarning(on_conflict="disable")
    cured = run(treatment)
    shift = accuracy_with_fresh_statistics(sick.module.net, images, bench.digits.test) - sick.accuracy
    _result(
        bench,
        cured,
        f"{sick.percent} -> {cured.percent}. Of these {100 * (cured.accuracy - sick.accuracy):.1f} points the shift of "
        f"the variance explains {100 * shift:.1f} (gained by taking the sick net's statistics anew, dropout off); "
        "the rest is not the shift's: so much dropout is much for a net this narrow.",
    )
    words = said(cured, f"{len(treatment.disabled)} dropouts disabled")
    return Story("dropout-bn", callback, sick.percent, cured.percent, words, sick.seconds + cured.seconds)


STORIES = {"nan": nan, "explosion": explosion, "init": init, "plateau": plateau, "dropout-bn": dropout_bn}


def _suggested_clip(outcome: Outcome) -> float | None:
    clips = (finding.evidence.get("suggested_clip") for finding in outcome.findings if finding.code == "LT601")
    return next((float(f"{clip:.2g}") for clip in clips if clip is not None), None)


def _open(bench: Bench, name: str, sickness: str) -> None:
    bench.console.print()
    bench.console.rule(f"[bold]{name}")
    bench.say(f"{sickness}\n")


def _without(bench: Bench, sick: Outcome) -> None:
    bench.say(f"[bold]Without:[/] test accuracy {sick.percent}, last training loss {sick.train_loss:.3g}.")


def _with(bench: Bench, callback: str) -> None:
    bench.say(f"[bold]With[/] {escape(callback)}:\n")


def _result(bench: Bench, outcome: Outcome | None, text: str) -> None:
    """What the callbacks of ``outcome`` did, and what came of it; what they found was printed as it came."""
    for note in [] if outcome is None else outcome.notes:
        bench.say(f"- {escape(note)}")
    bench.say(f"\n[bold]Result:[/] {text}")
