from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning import (
    DropoutBNConflictWarning,
    Finding,
    Journal,
    Severity,
    TuningError,
    TuningSuite,
    TuningWarning,
)
from tests.helpers import CLASSES, TinyModule, quiet_trainer


def conv(i: int, o: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, padding=1)


HEAD = (nn.AdaptiveAvgPool2d(2), nn.Flatten())


class Images(TinyModule):
    """A net over images ``[1, 8, 8]``, built by the function of the case."""

    shape = (1, 8, 8)

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self.make = [make]
        super().__init__(lr=0.01, batches=2)

    def build(self) -> nn.Module:
        return self.make[0]()


class Functional(nn.Module):
    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p
        self.first, self.second, self.head = conv(1, 4), conv(4, 4), nn.Linear(16, CLASSES)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.first(x)), self.p, training=self.training)  # <- dropout
        x = F.batch_norm(self.second(x), self.mean, self.var, training=self.training)
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Residual(nn.Module):
    """The dropout sits in a branch, the batch norm behind the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.drop = conv(1, 4), conv(4, 4), nn.Dropout(0.3)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.drop(self.branch(x).relu_())
        return self.head(F.adaptive_avg_pool2d(self.norm(x), 2).flatten(1))


class Reversed(nn.Module):
    """Registered dropout first, used last: only registration order is in conflict."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.norm, self.stem, self.head = nn.Dropout(), nn.BatchNorm2d(4), conv(1, 4), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.head(self.drop(F.adaptive_avg_pool2d(x, 2).flatten(1)))


def eval_norm() -> nn.Module:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    return Frozen(4).eval()


SICK: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "sequential": (
        lambda: nn.Sequential(
            conv(1, 4), nn.ReLU(), nn.Dropout(0.2), conv(4, 4), nn.BatchNorm2d(4), *HEAD, nn.Linear(16, CLASSES)
        ),
        "net.2",
        "`net.4`",
    ),
    "dropout2d": (
        lambda: nn.Sequential(conv(1, 4), nn.Dropout2d(0.2), nn.BatchNorm2d(4), *HEAD, nn.Linear(16, CLASSES)),
        "net.1",
        "`net.2`",
    ),
    "pooling and reshaping between": (
        lambda: nn.Sequential(
            conv(1, 4), nn.Dropout(0.2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8),
            nn.Linear(8, CLASSES),
        ),
        "net.1",
        "`net.5`",
    ),
    "functional": (Functional, "net", "`net`"),
    "residual branch": (Residual, "net.drop", "`net.norm`"),
}  # fmt: skip

HEALTHY: dict[str, Callable[[], nn.Module]] = {
    "p = 0": lambda: nn.Sequential(conv(1, 4), nn.Dropout(0.0), nn.BatchNorm2d(4), *HEAD, nn.Linear(16, CLASSES)),
    "functional p = 0": lambda: Functional(0.0),
    "batch norm in eval": lambda: nn.Sequential(conv(1, 4), nn.Dropout(), eval_norm(), *HEAD, nn.Linear(16, CLASSES)),
    "head dropout": lambda: nn.Sequential(conv(1, 4), nn.BatchNorm2d(4), *HEAD, nn.Dropout(), nn.Linear(16, CLASSES)),
    "registration order only": Reversed,
    "group norm": lambda: nn.Sequential(conv(1, 4), nn.Dropout(), nn.GroupNorm(2, 4), *HEAD, nn.Linear(16, CLASSES)),
    "layer norm between": lambda: nn.Sequential(
        conv(1, 4), nn.Dropout(), nn.LayerNorm(8), nn.BatchNorm2d(4), *HEAD, nn.Linear(16, CLASSES)
    ),
    "alpha dropout": lambda: nn.Sequential(
        conv(1, 4), nn.AlphaDropout(), nn.BatchNorm2d(4), *HEAD, nn.Linear(16, CLASSES)
    ),
    "no dropout": lambda: nn.Sequential(conv(1, 4), nn.BatchNorm2d(4), *HEAD, nn.Linear(16, CLASSES)),
}


def run(make: Callable[[], nn.Module], callback: Any, **settings: Any) -> tuple[list[Finding], Images]:
    model = Images(make)
    trainer = quiet_trainer(callbacks=[callback], **settings)
    trainer.fit(model)
    return Journal.of(trainer).findings, model


@pytest.mark.parametrize("case", SICK)
def test_sick(case: str) -> None:
    make, dropout, batch_norm = SICK[case]
    with pytest.warns(TuningWarning, match="LT301 dropout-before-batchnorm"):
        (finding,), _ = run(make, DropoutBNConflictWarning())
    assert (finding.code, finding.severity, finding.where) == ("LT301", Severity.WARNING, dropout)
    assert finding.evidence["batch_norm"] == batch_norm
    assert batch_norm in finding.message


@pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode:UserWarning")  # one case, on purpose
@pytest.mark.parametrize("case", HEALTHY)
def test_healthy(case: str) -> None:
    findings, _ = run(HEALTHY[case], DropoutBNConflictWarning())
    assert findings == []


def test_the_line_of_a_functional_dropout_is_named() -> None:
    with pytest.warns(TuningWarning):
        (finding,), _ = run(Functional, DropoutBNConflictWarning())
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    marked = next(i for i, line in enumerate(lines, 1) if line.endswith("# <- dropout"))
    assert finding.source_line is not None
    assert finding.source_line.endswith(f"test_dropout_bn_conflict.py:{marked}")


def test_in_the_suite_it_is_advice() -> None:
    findings, _ = run(SICK["sequential"][0], TuningSuite(select=["LT301"], on_finding="raise"))
    assert [(f.code, f.severity) for f in findings] == [("LT301", Severity.INFO)]


def test_raise_ends_the_run_before_its_first_update() -> None:
    model = Images(SICK["sequential"][0])
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(TuningError, match=r"LT301 .* at net\.2") as error:
        quiet_trainer(callbacks=[DropoutBNConflictWarning("raise")]).fit(model)
    assert error.value.finding is not None
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_disable_silences_the_conflicting_dropouts_only() -> None:
    def make() -> nn.Module:
        return nn.Sequential(
            conv(1, 4), nn.Dropout(0.2), nn.BatchNorm2d(4), *HEAD, nn.Dropout(0.4), nn.Linear(16, CLASSES)
        )

    callback = DropoutBNConflictWarning("disable")
    with pytest.warns(TuningWarning):
        _, model = run(make, callback)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.0, 0.4]
    assert callback.disabled == ["net.1"]


def test_a_functional_dropout_can_not_be_disabled_and_that_is_said() -> None:
    model, trainer = Images(Functional), quiet_trainer(callbacks=[DropoutBNConflictWarning("disable")])
    with pytest.warns(TuningWarning):
        trainer.fit(model)
    assert "could not disable the functional dropout" in Journal.of(trainer).notes[0]


def test_a_resumed_run_starts_with_them_disabled(tmp_path: Any) -> None:
    trainer = quiet_trainer(callbacks=[DropoutBNConflictWarning("disable")])
    with pytest.warns(TuningWarning):
        trainer.fit(Images(SICK["sequential"][0]))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    callback, model = DropoutBNConflictWarning("disable"), Images(SICK["sequential"][0])
    seen: list[float] = []
    model.on_train_batch_start = lambda *_: seen.append(model.net[2].p)  # type: ignore[method-assign]
    resumed = quiet_trainer(callbacks=[callback], max_epochs=2)
    resumed.fit(model, ckpt_path=tmp_path / "end.ckpt")
    assert seen == [0.0, 0.0]
    assert [(f.code, f.count) for f in Journal.of(resumed).findings] == [("LT301", 1)]


def test_compiled_modules_are_seen_aside() -> None:
    def make() -> nn.Module:
        return torch.compile(SICK["sequential"][0](), backend="eager")

    with pytest.warns(TuningWarning):
        (finding,), _ = run(make, DropoutBNConflictWarning())
    assert finding.where == "net.2"


def test_bf16_autocast_hides_nothing() -> None:
    with pytest.warns(TuningWarning):
        findings, _ = run(SICK["sequential"][0], DropoutBNConflictWarning(), precision="bf16-mixed")
    assert [f.where for f in findings] == ["net.2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"on_conflict": "fix"},
            r"`on_conflict` must be one of \('warn', 'raise', 'disable', 'move', 'uout'\), got 'fix'",
        ),
        ({"severity": "bad"}, "`severity` must be one of 'info', 'warning', 'error', got 'bad'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DropoutBNConflictWarning(**arguments)
