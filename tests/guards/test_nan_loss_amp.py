"""``NanLossGuard`` beside a GradScaler: its own skips are counted, not reported; a bad loss is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.amp import GradScaler

from lightning_tuning import Journal, NanLossGuard, TuningError
from tests.guards.faulty import FaultyBN, FaultyMlp, Witness
from tests.helpers import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning")


def fit(
    model: Any, guard: NanLossGuard, scale: float = 8.0, *, callbacks: Any = (), path: Any = None, **settings: Any
) -> tuple[Any, Witness, GradScaler]:
    scaler, witness = GradScaler("cpu", init_scale=scale), Witness()
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    trainer = quiet_trainer(callbacks=[guard, witness, *callbacks], plugins=[plugin], **settings)
    trainer.fit(model, ckpt_path=path)
    return trainer, witness, scaler


def adam(fused: bool) -> Any:
    return lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=fused)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("action", ["raise", "skip", "stop"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_scaler_searches_in_peace(fused: bool, action: str, accumulate: int) -> None:
    guard = NanLossGuard(action=action)
    model = FaultyMlp(optimizer=adam(fused), batches=8)
    trainer, _, scaler = fit(model, guard, scale=2.0**24, accumulate_grad_batches=accumulate, max_epochs=2)
    assert Journal.of(trainer).findings == []
    assert guard.skipped == 0
    assert guard.amp_skips > 0
    assert scaler.get_scale() == 2.0 ** (24 - guard.amp_skips)
    assert Journal.of(trainer).notes == [
        f"NanLossGuard saw the GradScaler leave out {guard.amp_skips} of {trainer.global_step} updates"
    ]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("fault", ["sample", "nan", "inf", "log"])
def test_a_bad_loss_is_skipped(fused: bool, fault: str) -> None:
    guard = NanLossGuard(action="skip")
    model = FaultyMlp({2: fault}, optimizer=adam(fused), batches=5)
    trainer, witness, _ = fit(model, guard)
    assert witness.changed == [True, True, False, True, True]
    assert (guard.skipped, guard.amp_skips) == (1, 0)
    assert [finding.code for finding in Journal.of(trainer).findings] == ["LT701"]
    assert torch.isfinite(trainer.callback_metrics["train_loss"])


@pytest.mark.parametrize("fused", [False, True])
def test_a_bad_loss_drops_its_window(fused: bool) -> None:
    guard = NanLossGuard(action="skip")
    model = FaultyMlp({2: "nan"}, optimizer=adam(fused), batches=6)
    _, witness, _ = fit(model, guard, accumulate_grad_batches=2)
    assert witness.changed == [False, True, False, False, False, True]
    assert guard.skipped == 1


def test_batch_norm_is_put_back() -> None:
    model = FaultyBN({1: "sample"}, batches=3)
    _, witness, _ = fit(model, NanLossGuard(action="skip"))
    assert witness.changed == [True, False, True]
    assert model.net[1].num_batches_tracked == 2


class Weighted(FaultyMlp):
    """Its gradients overflow float16 at any scale worth having."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * 1e7


@pytest.mark.parametrize("fused", [False, True])
def test_a_scale_below_one(fused: bool) -> None:
    guard = NanLossGuard("skip")
    trainer, _, scaler = fit(Weighted(optimizer=adam(fused), batches=20), guard, scale=2.0**10)
    assert scaler.get_scale() < 1
    (finding,) = Journal.of(trainer).findings
    assert (finding.code, str(finding.severity), finding.step, guard.skipped) == ("LT704", "warning", 11, 0)
    assert guard.amp_skips == finding.count + 10
    assert "bf16" in finding.remedy


@pytest.mark.parametrize("fused", [False, True])
def test_one_update_in_fifteen_left_out(fused: bool) -> None:
    bad = dict.fromkeys(range(110, 306, 15), "gradient")
    guard = NanLossGuard()
    trainer, _, scaler = fit(FaultyMlp(bad, optimizer=adam(fused), batches=310), guard, scale=2.0**16)
    (finding,) = Journal.of(trainer).findings
    assert (finding.code, finding.step, finding.count) == ("LT704", 306, 1)
    assert finding.message == "the GradScaler left out 14 of the last 200 updates (7% > 5%)"
    assert scaler.get_scale() == finding.evidence["scale"] == 2.0 ** (16 - len(bad))
    assert guard.amp_skips == len(bad)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_the_count_goes_on_when_resumed(tmp_path: Any) -> None:
    first, resumed = NanLossGuard("skip"), NanLossGuard("skip")
    keep = ModelCheckpoint(tmp_path, save_last=True)
    trainer, _, _ = fit(Weighted(batches=6), first, scale=2.0**10, callbacks=[keep], enable_checkpointing=True)
    assert first.amp_skips == 6
    assert Journal.of(trainer).findings == []
    trainer, _, _ = fit(Weighted(batches=6), resumed, scale=2.0**10, max_epochs=2, path=keep.last_model_path)
    assert [(finding.code, finding.step) for finding in Journal.of(trainer).findings] == [("LT704", 11)]
    assert resumed.amp_skips >= 11


def test_without_a_scaler_nothing_is_kept() -> None:
    guard = NanLossGuard()
    trainer = quiet_trainer(callbacks=[guard])
    trainer.fit(FaultyMlp(batches=3))
    assert "ScaleWatch" not in guard.tuning_state()["responses"]


def test_raise() -> None:
    with pytest.raises(TuningError, match="NaN in sample 5"):
        fit(FaultyMlp({1: "sample"}), NanLossGuard())


def test_clipping() -> None:
    _, witness, _ = fit(FaultyMlp({1: "sample"}, batches=3), NanLossGuard(action="skip"), gradient_clip_val=0.1)
    assert witness.changed == [True, False, True]
