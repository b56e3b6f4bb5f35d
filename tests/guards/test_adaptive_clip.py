"""Each method against a run that clips by torch's own functions, at thresholds that plain Python came to."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_

from lightning_tuning import AdaptiveClipGuard, ClippingMonitor, Journal, NanLossGuard, TuningSuite
from lightning_tuning.measure import Reading
from lightning_tuning.runtime import Desk, TuningCallback
from tests.helpers import LSTMNet, ManualGAN, Mlp, quiet_trainer
from tests.treatments.regularized import ByHand

FAST = {"window": 10, "warmup": 5}


class Oracle(pl.Callback):
    """Clips in the plainest way: a list of norms, numpy, and ``clip_grad_norm_``."""

    def __init__(self, method: str = "percentile", percentile: float = 90.0) -> None:
        self.method, self.percentile = method, percentile
        self.norms: dict[int, list[float]] = {}
        self.thresholds: list[float] = []

    def threshold(self, norms: list[float]) -> float:
        if len(norms) < FAST["warmup"]:
            return math.inf
        if self.method == "percentile":
            return float(np.percentile(norms[-FAST["window"] :], self.percentile))
        weights = np.ones(FAST["warmup"]) / FAST["warmup"]
        for _ in norms[FAST["warmup"] :]:
            weights = np.append(0.97 * weights, 0.03)
        mean = np.average(norms, weights=weights)
        return float(mean + 1.0 * math.sqrt(np.average((np.array(norms) - mean) ** 2, weights=weights)))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        known = self.norms.setdefault(id(optimizer), [])
        threshold = self.threshold(known)
        norm = float(clip_grad_norm_(parameters, threshold))
        known.append(norm if self.method == "percentile" else min(norm, threshold))
        self.thresholds.append(threshold)


def guard(method: str = "percentile", **arguments: Any) -> AdaptiveClipGuard:
    own = {"percentile": FAST, "zscore": {"warmup": FAST["warmup"], "threshold": 1.0}}.get(method, {})
    return AdaptiveClipGuard(method, **{**own, **arguments})  # type: ignore[arg-type]


def fit(model: pl.LightningModule, *callbacks: pl.Callback, path: Any = None, **settings: Any) -> pl.Trainer:
    torch.manual_seed(0)
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(model, ckpt_path=path)
    return trainer


def assert_alike(one: pl.LightningModule, other: pl.LightningModule, **tolerance: float) -> None:
    for (name, mine), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=lambda m, n=name: f"{n}: {m}", **tolerance)


WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "automatic": (lambda: Mlp(batches=30), {}),
    "recurrent": (lambda: LSTMNet(batches=30), {}),
    "manual": (lambda: ByHand(batches=40), {}),
    "two optimizers": (lambda: ManualGAN(batches=20), {}),
    "accumulation": (lambda: Mlp(batches=40), {"accumulate_grad_batches": 2}),
    "bf16": (lambda: Mlp(batches=30), {"precision": "bf16-mixed"}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["percentile", "zscore"])
def test_a_run_is_the_one_that_is_clipped_by_hand(way: str, method: str) -> None:
    build, settings = WAYS[way]
    mine, theirs, oracle = build(), build(), Oracle(method)
    trainer = fit(mine, guard(method), **settings)
    fit(theirs, oracle, **settings)
    assert_alike(mine, theirs, rtol=1e-4, atol=1e-5)
    (note,) = Journal.of(trainer).notes
    assert note.startswith("AdaptiveClipGuard clipped ")
    if len(oracle.norms) == 1:
        ((norms),) = oracle.norms.values()
        last = oracle.threshold(norms)
        assert f"at the end to {last:.2g}" in note or f"at the end to {last:.3g}" in note
        assert any(norm > at for norm, at in zip(norms, oracle.thresholds, strict=True) if method == "percentile") or (
            method == "zscore"
        )
        assert f" of {len(norms)} updates" in note


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_fixed_bounds_are_lightnings_own(algorithm: str) -> None:
    bound = {"norm": 0.3, "value": 0.02}[algorithm]
    mine, theirs = Mlp(batches=20), Mlp(batches=20)
    trainer = fit(mine, AdaptiveClipGuard(algorithm, threshold=bound))
    fit(theirs, gradient_clip_val=bound, gradient_clip_algorithm=algorithm)
    assert_alike(mine, theirs, rtol=1e-4, atol=1e-5)
    assert "20 updates" in Journal.of(trainer).notes[0]


class Agc(pl.Callback):
    """Row by row, in plain Python."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        for name, p in pl_module.named_parameters():
            if name.startswith(self.names):
                for w, g in zip(p.detach(), p.grad, strict=True) if p.dim() > 1 else [(p.detach(), p.grad)]:
                    g.mul_(min(1.0, 0.1 * max(float(w.norm()), 1e-3) / max(float(g.norm()), 1e-12)))


@pytest.mark.parametrize(
    ("exclude", "names"),
    [(None, ("net.0", "net.2")), ([], ("net.",)), (["net.0", "*bias"], ("net.2.weight", "net.4.weight"))],
)
def test_units_are_clipped_but_the_last_layers(exclude: Any, names: tuple[str, ...]) -> None:
    mine, theirs, bare = Mlp(batches=10), Mlp(batches=10), Mlp(batches=10)
    trainer = fit(mine, AdaptiveClipGuard("agc", threshold=0.1, exclude=exclude))
    fit(theirs, Agc(*names))
    fit(bare)
    assert_alike(mine, theirs, rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError):
        assert_alike(mine, bare, rtol=1e-4, atol=1e-5)
    assert "gradients of units" in Journal.of(trainer).notes[0]


class Fused(Mlp):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2, fused=True)


class Plain(Mlp):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2, fused=False)


def scaled() -> dict[str, Any]:
    return {"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=2.0**10))]}


@pytest.mark.parametrize("method", ["percentile", "agc", "value"])
def test_gradients_that_are_still_scaled_are_clipped_alike(method: str) -> None:
    """A fused optimizer divides by the GradScaler's scale after everybody has looked."""
    arguments = {"value": {"threshold": 0.01}, "agc": {"threshold": 0.05}}.get(method, {})
    fused, plain = Fused(batches=20), Plain(batches=20)
    one, other = (fit(model, guard(method, **arguments), **scaled()) for model in (fused, plain))
    assert_alike(fused, plain, rtol=2e-2, atol=2e-3)  # half precision, in two orders of rounding
    shares = [int(Journal.of(trainer).notes[0].split()[2]) for trainer in (one, other)]
    assert shares[0] > 0
    assert abs(shares[0] - shares[1]) <= max(2, shares[1] // 10)


class Breaks(Mlp):
    """Some gradients are not finite, the loss is."""

    broken = (12, 13)

    def on_after_backward(self) -> None:
        if self.trainer.global_step in self.broken:
            self.net[0].weight.grad[0, 0] = math.inf if self.trainer.global_step == 12 else math.nan


@pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")
@pytest.mark.parametrize("method", ["percentile", "zscore", "norm", "value", "agc"])
def test_broken_gradients_are_left_alone_and_forgotten(method: str) -> None:
    class Look(pl.Callback):
        seen: dict[int, list[Tensor]] = {}  # noqa: RUF012

        def __init__(self) -> None:
            self.seen = {}

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            self.seen[trainer.global_step] = [p.grad.clone() for p in pl_module.parameters()]

    clips = guard(method, **{"threshold": 1e-3} if method in ("norm", "value", "agc") else {})
    before, after = Look(), Look()
    fit(Breaks(batches=16), before, clips, after, NanLossGuard("skip", replay=False))
    for step in Breaks.broken:
        for one, other in zip(before.seen[step], after.seen[step], strict=True):
            assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
    if method in ("percentile", "zscore"):
        assert clips.tuning_state()["thresholds"][0]["count"] == 14
    if method == "percentile":
        assert bool(clips.tuning_state()["thresholds"][0]["history"].isfinite().all())


def test_norms_of_zero_enter_no_window() -> None:
    class Silent(Mlp):
        def on_after_backward(self) -> None:
            if self.trainer.global_step < 10:
                for p in self.parameters():
                    p.grad.zero_()

    clips, model = guard(), Silent(batches=14)
    fit(model, clips)
    assert clips.tuning_state()["thresholds"][0]["count"] == 4
    with pytest.raises(AssertionError):
        assert_alike(model, Silent(batches=14))


class Readings(TuningCallback):
    """What the meter told."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        Desk.of(trainer).meter.subscribe(self.readings.append)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        Desk.of(trainer).meter.gradient_norms(optimizer, self)


@pytest.mark.parametrize("is_first", [True, False], ids=["the guard first", "the suite first"])
def test_everybody_sees_what_was_there_before_clipping(is_first: bool) -> None:
    oracle, told = Oracle(), Readings()
    fit(Mlp(batches=30), oracle)
    mine = [guard(), TuningSuite()]
    fit(Mlp(batches=30), *(mine if is_first else mine[::-1]), told)
    ((norms),) = oracle.norms.values()
    assert [reading.grad_norm for reading in told.readings] == pytest.approx(norms, rel=1e-4)
    assert [reading.clip for reading in told.readings] == pytest.approx(oracle.thresholds, rel=1e-4)


class Logged(CSVLogger):
    """What was logged, in memory."""

    def __init__(self) -> None:
        super().__init__(".")
        self.numbers: dict[str, dict[int, float]] = {}

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        for name, number in metrics.items():
            if not name.startswith("tuning/"):
                continue
            assert step not in self.numbers.get(name, {}), f"{name} is logged twice"
            self.numbers.setdefault(name, {})[step or 0] = number


@pytest.mark.parametrize("watched", [False, True])
def test_threshold_and_share_are_logged_once(watched: bool) -> None:
    oracle, logger = Oracle(), Logged()
    fit(Mlp(batches=40), oracle)
    fit(Mlp(batches=40), guard(), *([ClippingMonitor(window=20)] if watched else []), logger=logger)
    logged = logger.numbers["tuning/clip_threshold"]
    assert sorted(logged) == list(range(5, 40))
    assert list(logged.values()) == pytest.approx(oracle.thresholds[5:], rel=1e-4)
    shares = logger.numbers["tuning/clipped_share"]
    if watched:
        assert sorted(shares) == list(range(19, 40, 5))  # the monitor's own
    else:
        ((norms),) = oracle.norms.values()
        clipped = sum(norm > at for norm, at in zip(norms, oracle.thresholds, strict=True))
        assert shares[39] == pytest.approx(clipped / 40)


def test_two_optimizers_have_memories_and_names_of_their_own() -> None:
    clips, logger = guard(), Logged()
    trainer = fit(ManualGAN(batches=20), clips, logger=logger)
    assert [state["count"] for state in clips.tuning_state()["thresholds"].values()] == [20, 20]
    assert {"tuning/clip_threshold/optimizer_0", "tuning/clip_threshold/optimizer_1"} <= set(logger.numbers)
    assert "optimizer 0: " in Journal.of(trainer).notes[0]
    assert "; optimizer 1: " in Journal.of(trainer).notes[0]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("method", ["percentile", "zscore", "agc"])
def test_a_resumed_run_is_the_unbroken_one(method: str, tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    clips, again = guard(method), guard(method)
    unbroken, resumed = Mlp(batches=12), Mlp(batches=12)
    fit(unbroken, clips, saves, max_epochs=3, enable_checkpointing=True)
    trainer = fit(resumed, again, max_epochs=3, path=tmp_path / "epoch=0.ckpt")
    assert_alike(unbroken, resumed, rtol=0, atol=0)
    one, other = copy.deepcopy(clips.tuning_state()), again.tuning_state()
    if method == "percentile":
        assert torch.equal(one["thresholds"][0].pop("history"), other["thresholds"][0].pop("history"))
    assert one == other
    assert " of 36 updates" in Journal.of(trainer).notes[0] or method == "agc"


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_resumed_with_another_window_or_method(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    fit(Mlp(batches=12), first := guard(), saves, enable_checkpointing=True)
    last = first.tuning_state()["thresholds"][0]["history"]
    for window, kept in ((6, last[-6:]), (40, last)):
        again = AdaptiveClipGuard(window=window, warmup=2)
        fit(Mlp(batches=12), again, path=tmp_path / "epoch=0.ckpt")  # no further step
        again._threshold_of(0, torch.device("cpu"))
        assert torch.equal(again.tuning_state()["thresholds"][0]["history"], kept)
    other = guard("zscore")
    fit(Mlp(batches=12), other, path=tmp_path / "epoch=0.ckpt", max_epochs=2)
    assert other.tuning_state()["thresholds"][0]["count"] == 12


def test_warming_up_until_the_end_is_said() -> None:
    bare, mine = Mlp(), Mlp()
    fit(bare)
    trainer = fit(mine, AdaptiveClipGuard())
    assert_alike(bare, mine, rtol=0, atol=0)
    assert Journal.of(trainer).notes == [
        "AdaptiveClipGuard clipped 0 of 8 updates (0 %); it was warming up until the end"
    ]


def test_the_percentile_of_autoclip_clips_nearly_everything() -> None:
    shares = []
    for percentile in (90.0, 10.0):
        trainer = fit(LSTMNet(batches=200), AdaptiveClipGuard(percentile=percentile))
        shares.append(int(Journal.of(trainer).notes[0].split()[2]) / 200)
    assert shares[0] < 0.3
    assert shares[1] > 0.6


@pytest.mark.parametrize(
    ("model", "callbacks", "settings", "said"),
    [
        (Mlp, lambda: [AdaptiveClipGuard()], {"gradient_clip_val": 0.5}, "gradient_clip_val=0.5"),
        (Mlp, lambda: [AdaptiveClipGuard(), AdaptiveClipGuard("agc")], {}, "second AdaptiveClipGuard"),
        (Mlp, lambda: [AdaptiveClipGuard("agc", exclude="head*")], {}, r"'head\*' matches no parameter"),
    ],
)
def test_set_ups_that_are_refused(model: Any, callbacks: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(MisconfigurationException, match=said):
        fit(model(), *callbacks(), **settings)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "mean"}, "`method` must be one of"),
        ({"percentile": 101}, "`percentile` must be between 0 and 100, got 101."),
        ({"percentile": math.nan}, "`percentile` must be between 0 and 100, got nan."),
        ({"percentile": True}, "`percentile` must be between 0 and 100, got True."),
        ({"window": 0}, "`window` must be a whole number of at least 1, got 0."),
        ({"warmup": 2.5}, "`warmup` must be a whole number of at least 1, got 2.5."),
        ({"window": 10, "warmup": 11}, r"`warmup` must be at most `window` \(10\), got 11."),
        ({"threshold": 1.0}, "`threshold` must be None for method='percentile', got 1.0."),
        ({"method": "norm"}, "`threshold` must be a number above 0 for method='norm', got None."),
        ({"method": "value", "threshold": 0.0}, "`threshold` must be a number above 0 for method='value', got 0.0."),
        ({"method": "agc", "threshold": math.inf}, "above 0 for method='agc', got inf."),
        ({"method": "zscore", "threshold": math.nan}, "above 0 for method='zscore', got nan."),
        ({"exclude": [3]}, "`exclude` must hold globs on dotted names, got 3."),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AdaptiveClipGuard(**arguments)
