"""``NanLossGuard`` beside a GradScaler: its own skips are counted, not reported; a bad loss is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.amp import GradScaler

from lightning_tuning import Journal, NanLossGuard, TuningError
from tests.guards.faulty import FaultyBN, FaultyMlp, Witness
from tests.helpers import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning")


def fit(model: Any, guard: NanLossGuard, scale: float = 8.0, **settings: Any) -> tuple[Any, Witness, GradScaler]:
    scaler, witness = GradScaler("cpu", init_scale=scale), Witness()
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    trainer = quiet_trainer(callbacks=[guard, witness], plugins=[plugin], **settings)
    trainer.fit(model)
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


def test_raise() -> None:
    with pytest.raises(TuningError, match="NaN in sample 5"):
        fit(FaultyMlp({1: "sample"}), NanLossGuard())


def test_clipping() -> None:
    _, witness, _ = fit(FaultyMlp({1: "sample"}, batches=3), NanLossGuard(action="skip"), gradient_clip_val=0.1)
    assert witness.changed == [True, False, True]
