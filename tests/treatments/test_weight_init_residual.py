"""``residual="zero"`` and ``"fixup"``: branches that start switched off, and the others that are not touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.functional.variance_scale import fixup_scale
from lightning_tuning.runtime import Desk
from lightning_tuning.treatments import WeightInitCallback
from tests.helpers import Mlp, TinyModule, TransformerNet, quiet_trainer


class Block(nn.Module):
    """``x + c2(relu(c1(x)))``, with norms if asked, and a projection where the width changes."""

    def __init__(
        self, width: int, out: int, *, norm: bool = False, last: Callable[[], nn.Module] = nn.Identity
    ) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(width, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.n1, self.n2 = (nn.BatchNorm2d(out) if norm else nn.Identity() for _ in range(2))
        self.skip = nn.Identity() if width == out else nn.Conv2d(width, out, 1)
        self.last = last()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.skip(x) + self.last(self.n2(self.c2(torch.relu(self.n1(self.c1(x)))))))


def size(*parameters: Tensor) -> float:
    return float(sum(parameter.detach().abs().sum() for parameter in parameters))


class ResNet(TinyModule):
    shape = (4, 6, 6)

    def __init__(self, lr: float = 0.0, *, norm: bool = False, last: Any = nn.Identity) -> None:
        object.__setattr__(self, "given", {"norm": norm, "last": last})
        super().__init__(lr)

    def build(self) -> nn.Module:
        blocks = (Block(4, 4, **self.given), Block(4, 8, **self.given), Block(8, 8, **self.given))
        return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(8 * 36, 3))


def fit(model: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    settings.setdefault("limit_train_batches", 1)
    trainer = quiet_trainer(callbacks=list(callbacks), limit_val_batches=0, **settings)
    trainer.fit(model)
    return trainer


@pytest.mark.parametrize("scheme", ["auto", "he", "lsuv", nn.init.trunc_normal_])
def test_zero_switches_each_branch_off(scheme: Any) -> None:
    model, callback = ResNet(), WeightInitCallback(scheme, residual="zero")
    trainer = fit(model, callback)
    for block in model.net[:3]:
        assert size(block.c2.weight, block.c2.bias) == 0
        assert size(block.c1.weight) > 0
        x = torch.rand(2, block.c1.in_channels, 6, 6)
        assert torch.equal(block(x), torch.relu(block.skip(x)))
    rows = {row.name: row.scheme for row in callback.report_.initialized}
    assert [name for name, scheme in rows.items() if scheme == "zero"] == [f"net.{i}.c2.weight" for i in range(3)]
    (note,) = callback.report_.notes
    assert note.startswith("residual 'zero': 3 of 3 branches start switched off: net.0.c2.weight, net.1.c2.weight")
    assert note in Desk.of(trainer).journal.notes


def test_zero_takes_the_scale_of_the_last_norm() -> None:
    model, callback = ResNet(norm=True), WeightInitCallback("he", residual="zero")
    fit(model, callback)
    for block in model.net[:3]:
        assert size(block.n2.weight) == 0
        assert torch.equal(block.n1.weight, torch.ones_like(block.n1.weight))
        assert size(block.c2.weight) > 0
    assert {row.scheme for row in callback.report_.initialized if ".n2." in row.name} == {"zero"}


def test_a_switched_off_net_learns() -> None:
    accuracies = []
    for residual in ("keep", "zero", "fixup"):
        model = ResNet(lr=0.05)
        trainer = quiet_trainer(callbacks=[WeightInitCallback(residual=residual)], max_epochs=3)
        trainer.fit(model)
        accuracies.append(float(trainer.callback_metrics["val_acc"]))
        assert all(size(block.c2.weight) > 0 for block in model.net[:3])
    assert min(accuracies[1:]) > 0.9


def test_transformer_branches() -> None:
    model, callback = TransformerNet(lr=0.0), WeightInitCallback(residual="zero")
    fit(model, callback)
    layer = model.net["encoder"]
    assert size(layer.self_attn.out_proj.weight, layer.linear2.weight) == 0
    assert size(layer.self_attn.in_proj_weight) > 0


def test_fixup_is_the_papers_arithmetic() -> None:
    model, plain = ResNet(), ResNet()
    callback = WeightInitCallback("he", residual="fixup", seed=0)
    fit(model, callback)
    fit(plain, WeightInitCallback("he", seed=0))
    for ours, theirs in zip(model.net[:3], plain.net[:3], strict=True):
        assert torch.allclose(ours.c1.weight, theirs.c1.weight * 3**-0.5)
        assert size(ours.c2.weight) == 0
        for name in ("skip.weight", "skip.bias"):
            if isinstance(ours.skip, nn.Conv2d):
                assert torch.equal(ours.get_parameter(name), theirs.get_parameter(name))
    assert size(model.net[4].weight) == 0
    assert fixup_scale(3, 2) == pytest.approx(3**-0.5)
    assert "the output layer starts at zero (net.4.weight); no scalar biases were added" in callback.report_.notes[-1]
    gains = {row.name: row.gain for row in callback.report_.initialized}
    assert gains["net.0.c1.weight"] == pytest.approx((2 / 3) ** 0.5)


@pytest.mark.parametrize(
    ("model", "residual", "said"),
    [
        (Mlp, "zero", "no residual branch was found in the first step, nothing was changed"),
        (Mlp, "fixup", "no residual branch was found in the first step, nothing was changed"),
        (lambda: ResNet(last=nn.ReLU), "zero", "left, it ends in 'relu': net.0, net.1, net.2"),
        (lambda: ResNet(norm=True), "fixup", "left, it is normalized, and Fixup is for nets that are not"),
    ],
)
def test_what_is_not_one_is_left_and_said(model: Callable[[], Any], residual: Any, said: str) -> None:
    plain = model()
    treated, callback = model(), WeightInitCallback("he", residual=residual, seed=0)
    plain.lr = treated.lr = 0.0
    fit(treated, callback)
    fit(plain, WeightInitCallback("he", seed=0))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in treated.state_dict().items())
    assert any(said in note for note in callback.report_.notes)


def test_trained_and_excluded_branches_stay() -> None:
    model = ResNet(norm=True)
    with torch.no_grad():
        for parameter in model.net[0].parameters():
            parameter.mul_(1.5)
    callback = WeightInitCallback("he", residual="zero", exclude="net.1")
    fit(model, callback)
    assert float(model.net[0].n2.weight.detach().min()) == 1.5
    assert float(model.net[1].n2.weight.detach().min()) == 1.0
    assert float(model.net[2].n2.weight.detach().max()) == 0.0
    assert callback.report_.notes[1] == "residual 'zero': left, its weights were left alone: net.0, net.1"


def test_a_norm_whose_scale_was_set_stays() -> None:
    model = ResNet(norm=True)
    nn.init.constant_(model.net[0].n2.weight, 0.5)
    model.net[1].n2.weight.requires_grad_(False)
    callback = WeightInitCallback("he", residual="zero")
    fit(model, callback)
    assert float(model.net[0].n2.weight.detach().min()) == 0.5
    assert any("the scale of its last norm was set: net.0" in note for note in callback.report_.notes)
    assert any("frozen or not included: net.1" in note for note in callback.report_.notes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"residual": "off"}, "`residual` must be one of ('keep', 'zero', 'fixup'), got 'off'."),
        ({"head_bias": "zero"}, "`head_bias` must be one of ('keep', 'prior'), got 'zero'."),
        ({"prior_batches": 0}, "`prior_batches` must be an integer of at least 1, got 0."),
        ({"prior_batches": 1.5}, "`prior_batches` must be an integer of at least 1, got 1.5."),
        ({"lsuv_tol": 0}, "`lsuv_tol` must be positive and finite, got 0."),
        ({"lsuv_tol": float("nan")}, "`lsuv_tol` must be positive and finite, got nan."),
        (
            {"scheme": "lsuv", "residual": "fixup"},
            "`residual` must be 'keep' or 'zero' with scheme 'lsuv', got 'fixup': LSUV undoes its scaling.",
        ),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the text is looked at below
        WeightInitCallback(**arguments)
    assert str(error.value) == said
