"""Layer by layer: what ``WeightInitCallback`` chooses for each kind of weight, and what it leaves alone and why."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_tuning.treatments import WeightInitCallback
from lightning_tuning.treatments._init_memory import Memory
from lightning_tuning.treatments._init_report import WeightInit
from lightning_tuning.treatments._init_survey import Selection, survey
from tests.helpers import TinyModule, quiet_trainer

SQRT2 = math.sqrt(2)


class Around(TinyModule):
    """Any network of ``(B, *shape)`` to ``(B, n)``, run once with a rate of zero."""

    def __init__(self, net: nn.Module, shape: tuple[int, ...] = (8,)) -> None:
        self._given = net
        self.shape = shape
        super().__init__(lr=0.0, batches=1, batch_size=4)
        del self._given

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_given":  # before Module.__init__ nothing may be registered
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def build(self) -> nn.Module:
        return self.__dict__["_given"]


def run(net: nn.Module, *arguments: Any, shape: tuple[int, ...] = (8,), **options: Any) -> WeightInitCallback:
    callback = WeightInitCallback(*arguments, seed=0, **options)
    trainer = quiet_trainer(callbacks=[callback], limit_val_batches=0)
    trainer.fit(Around(net, shape))
    return callback


def rows(callback: WeightInitCallback) -> dict[str, WeightInit]:
    return {row.name.removeprefix("net."): row for row in callback.report_.initialized}


def kept(callback: WeightInitCallback) -> dict[str, str]:
    return {name.removeprefix("net."): reason for name, reason in callback.report_.left_alone.items()}


class Applied(nn.Module):
    """A linear layer, whatever function, a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(8, 16), function, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


class TestActivations:
    @pytest.mark.parametrize(
        ("function", "scheme", "gain"),
        [
            (torch.relu, "he", SQRT2),
            (F.relu6, "he", SQRT2),
            (lambda x: x.clamp(min=0), "he", SQRT2),
            (lambda x: x.clamp_min(0.0), "he", SQRT2),
            (nn.LeakyReLU(0.3), "he", math.sqrt(2 / 1.09)),
            (lambda x: F.leaky_relu_(x, 0.3), "he", math.sqrt(2 / 1.09)),
            (nn.PReLU(init=0.5), "he", math.sqrt(2 / 1.25)),
            (nn.RReLU(0.3, 0.3), "he", math.sqrt(2 / 1.09)),
            (nn.GELU(), "he", 1.5335),
            (nn.GELU("tanh"), "he", 1.5337),
            (nn.SiLU(), "he", 1.6765),
            (nn.ELU(), "he", 1.2452),
            (nn.Mish(), "he", 1.4868),
            (torch.tanh, "xavier", 5 / 3),
            (nn.Hardtanh(), "xavier", 5 / 3),
            (torch.sigmoid, "xavier", 1.0),
            (nn.SELU(), "lecun", 1.0),
            (lambda x: x * torch.sigmoid(x), "he", 1.6765),
            (lambda x: 0.5 * x * (1 + torch.erf(x / SQRT2)), "he", 1.5335),
            (lambda x: 0.5 * x * (1 + torch.tanh(0.7979 * (x + 0.0447 * x**3))), "he", 1.5335),
            (lambda x: x, "xavier", 1.0),
            (lambda x: F.layer_norm(x, (16,)), "xavier", 1.0),
            (lambda x: F.softmax(x, -1), "xavier", 1.0),
            # Looked through: normalization, dropout, shapes, factors, additions.
            (lambda x: torch.relu(F.dropout(F.layer_norm(x, (16,)), 0.1) * 2 + 1), "he", SQRT2),
            (lambda x: torch.tanh(x.view(-1, 4, 4).transpose(1, 2)).flatten(1), "xavier", 5 / 3),
            (lambda x: x + torch.relu(x), "he", SQRT2),
        ],
    )
    def test_auto(self, function: Callable[[Tensor], Tensor], scheme: str, gain: float) -> None:
        row = rows(run(Applied(function)))["first.weight"]
        assert (row.scheme, row.gain) == (scheme, pytest.approx(gain, rel=2e-4))

    @pytest.mark.parametrize(
        ("function", "activation"), [(nn.GLU(), "glu"), (lambda x: F.silu(x[:, :8]) * x[:, 8:], "silu")]
    )
    def test_gates(self, function: Callable[[Tensor], Tensor], activation: str) -> None:
        assert rows(run(Applied(function, width=8)))["first.weight"].activation == activation

    def test_an_unknown_function_is_not_guessed_at(self) -> None:
        class Mine(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                return x.clamp(min=0)

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:
                return gradient

        row = rows(run(Applied(Mine.apply)))["first.weight"]
        assert (row.scheme, row.gain, row.activation) == ("xavier", 1.0, "")

    def test_the_output_is_known_by_the_loss(self) -> None:
        found = rows(run(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3), nn.LogSoftmax(-1))))
        assert (found["2.weight"].scheme, found["2.weight"].activation) == ("lecun", "output")

    def test_through_batch_norm_and_a_residual_branch(self) -> None:
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
                self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
                self.head = nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
                return self.head(F.max_pool2d(F.relu(x + y), 2).mean((2, 3)))

        found = rows(run(Block(), shape=(4, 6, 6)))
        assert [(row.scheme, row.activation) for row in found.values()] == [
            ("he", "relu"), ("he", "relu"), ("lecun", "output"),
        ]  # fmt: skip
        assert found["conv1.weight"].std_after == pytest.approx(math.sqrt(2 / 36), rel=0.2)


class TestKinds:
    @pytest.mark.parametrize("dimension", [1, 2, 3])
    def test_convolutions(self, dimension: int) -> None:
        plain, transposed = getattr(nn, f"Conv{dimension}d"), getattr(nn, f"ConvTranspose{dimension}d")
        net = nn.Sequential(
            plain(4, 64, 3, groups=2, padding=1), nn.ReLU(), transposed(64, 32, 2, stride=2), nn.ReLU(), nn.Flatten()
        )
        found = rows(run(net, shape=(4, *[4] * dimension)))
        assert found["0.weight"].std_after == pytest.approx(math.sqrt(2 / (2 * 3**dimension)), rel=0.15)
        assert found["2.weight"].std_after == pytest.approx(math.sqrt(2 / 64), rel=0.1)  # each output meets one tap
        assert {row.bias for row in found.values()} == {"0"}

    def test_lstm(self) -> None:
        class Last(nn.LSTM):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x)[0][:, -1]

        net = nn.Sequential(Last(4, 32, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(64, 3))
        found = rows(run(net, shape=(6, 4)))
        lstm = net[0]
        assert found["0.weight_ih_l0"].std_after == pytest.approx(math.sqrt(2 / (4 + 32)), rel=0.1)
        for block in lstm.weight_hh_l1_reverse.detach().chunk(4):
            torch.testing.assert_close(block @ block.T, torch.eye(32), atol=1e-5, rtol=0)
        for layer in ("l0", "l0_reverse", "l1", "l1_reverse"):
            total = getattr(lstm, f"bias_ih_{layer}") + getattr(lstm, f"bias_hh_{layer}")
            assert total.tolist() == [0.0] * 32 + [1.0] * 32 + [0.0] * 64
        assert found["0.weight_hh_l0"].bias == "0, forget 1"

    @pytest.mark.parametrize(
        ("forget_bias", "bias", "expected"), [(None, 0.0, 0.0), (2.0, None, 2.0), (None, 0.5, 1.0)]
    )
    def test_forget_bias(self, forget_bias: float | None, bias: float | None, expected: float) -> None:
        lstm = nn.LSTM(8, 4)
        run(nn.Sequential(lstm, Take(0)), "xavier", forget_bias=forget_bias, bias=bias)
        assert (lstm.bias_ih_l0 + lstm.bias_hh_l0)[4:8].tolist() == [expected] * 4

    def test_forget_gates_set_by_hand_stay(self) -> None:
        lstm = nn.LSTM(8, 4)
        lstm.bias_ih_l0.data[4:8] = 3.0
        before = lstm.bias_ih_l0.detach().clone()
        callback = run(nn.Sequential(lstm, Take(0)), "xavier")
        assert torch.equal(lstm.bias_ih_l0.detach(), before)
        assert torch.equal(lstm.bias_hh_l0.detach(), torch.zeros(16))
        assert list(kept(callback)) == ["0.bias_ih_l0"]

    @pytest.mark.parametrize(
        "net",
        [
            nn.Linear(8, 1),
            nn.Linear(8, 2, dtype=torch.bfloat16).float(),
            nn.Conv1d(8, 6, 3, groups=2),
            nn.ConvTranspose1d(8, 6, 3),
            nn.ConvTranspose2d(8, 6, (3, 2), groups=2),
            nn.LSTM(8, 4),
            nn.GRUCell(8, 4),
            nn.Bilinear(8, 3, 5),
            nn.MultiheadAttention(8, 2),
            nn.TransformerEncoderLayer(8, 2, 16),
        ],
        ids=lambda net: type(net).__name__,
    )
    def test_no_bias_of_torchs_own_is_taken_for_set(self, net: nn.Module) -> None:
        for module in (net, copy.deepcopy(net)):
            targets, _ = survey(module, Selection([("*", "he")], None, (), False), Memory())
            assert targets
            assert all(target.biases and not target.set_biases for target in targets)

    @pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
    @pytest.mark.parametrize(
        ("net", "first"),
        [
            (nn.GRU(8, 4), ("xavier", "gate")),
            (nn.RNN(8, 4), ("xavier", "gate")),
            (nn.RNN(8, 4, nonlinearity="relu"), ("he", "relu")),
            (nn.LSTM(8, 5, proj_size=3), ("xavier", "gate")),
        ],
    )
    def test_other_recurrent_layers(self, net: nn.Module, first: tuple[str, str]) -> None:
        found = list(rows(run(nn.Sequential(net, Take(0)))).values())
        assert [(found[0].scheme, found[0].activation), (found[1].scheme, found[1].activation)] == [
            first, ("orthogonal", "recurrent"),
        ]  # fmt: skip
        assert len(found) == len([name for name, _ in net.named_parameters() if name.startswith("weight")])

    def test_attention_counts_query_key_and_value_apart(self) -> None:
        net = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, activation="gelu")
        found = rows(run(nn.Sequential(net, nn.Flatten(), nn.Linear(192, 3)), shape=(3, 64)))
        assert found["0.self_attn.in_proj_weight"].std_after == pytest.approx(math.sqrt(2 / 128), rel=0.03)
        assert found["0.self_attn.out_proj.weight"].scheme == "xavier"
        assert found["0.linear1.weight"].activation == "gelu"
        assert found["0.linear2.weight"].scheme == "xavier"
        assert torch.count_nonzero(net.self_attn.in_proj_bias) == 0

    def test_orthogonal_attention(self) -> None:
        net = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        run(nn.Sequential(net, nn.Flatten(), nn.Linear(48, 3)), "orthogonal", shape=(3, 16))
        for block in net.self_attn.in_proj_weight.detach().chunk(3):
            torch.testing.assert_close(block @ block.T, torch.eye(16), atol=1e-5, rtol=0)

    def test_own_parameters_are_oriented_by_their_use(self) -> None:
        class Own(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.right = nn.Parameter(torch.randn(8, 512))
                self.linear = nn.Parameter(torch.randn(64, 512))
                self.left = nn.Parameter(torch.randn(3, 64))
                self.scale = nn.Parameter(torch.randn(1, 8))

            def forward(self, x: Tensor) -> Tensor:
                x = F.linear(torch.relu((x * self.scale) @ self.right), self.linear).relu()
                return (self.left @ x.T).T

        found = rows(callback := run(Own(), overwrite=True))
        assert found["right"].std_after == pytest.approx(math.sqrt(2 / 8), rel=0.05)
        assert found["linear"].std_after == pytest.approx(math.sqrt(2 / 512), rel=0.05)
        assert found["left"].std_after == pytest.approx(math.sqrt(1 / 64), rel=0.2)
        assert kept(callback) == {"scale": "its first use is not as a weight but in 'mul'"}
        assert all("known type" in reason for reason in kept(run(Own())).values())


class Take(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, outputs: tuple[Tensor, ...]) -> Tensor:
        return outputs[self.index]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()))


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    net[0].requires_grad_(False)
    return net


def switched_off() -> nn.Module:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.zeros_(net[0].weight)
    return net


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.spare = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.head = nn.Embedding(4, 8), nn.LayerNorm((2, 8)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x[:, :2] > 0).long()
        return self.head(self.norm(self.table(ids)).flatten(1))


class TestLeftAlone:
    @pytest.mark.parametrize(
        ("build", "name", "reason"),
        [
            (frozen, "0.weight", "frozen"),
            (switched_off, "0.weight", "all zero"),
            (Tied, "first.weight", "tied to net.second.weight"),
            (Embedded, "table.weight", "embedding"),
            (Embedded, "norm.weight", "normalization"),
            (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))), None, "weight norm"),
            (lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3))), None, "spectral norm"),
        ],
    )
    @pytest.mark.parametrize("scheme", ["he", "auto"])
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_with_its_reason(
        self, build: Callable[[], nn.Module], name: str | None, reason: str, scheme: str, overwrite: bool
    ) -> None:
        net = build()
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        callback = run(net, scheme, overwrite=overwrite)
        names = [name] if name else list(kept(callback))
        assert names
        for kept_name in names:
            assert reason in kept(callback)[kept_name]
            parameter, prefix = net.get_parameter(kept_name), kept_name.removesuffix("weight")
            assert torch.equal(parameter, before[kept_name])
            if prefix + "bias" in before:
                assert torch.equal(net.get_parameter(prefix + "bias"), before[prefix + "bias"])

    @pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
    def test_the_older_weight_norm(self) -> None:
        callback = run(nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3)), "he")
        assert {name for name, reason in kept(callback).items() if "weight norm" in reason} == {
            "0.weight_g",
            "0.weight_v",
        }

    def test_what_the_first_step_does_not_use(self) -> None:
        callback = run(Unused())
        assert kept(callback) == {"spare.weight": "not seen in the first training step"}
        assert list(rows(callback)) == ["net.weight"]

    def test_a_frozen_bias(self) -> None:
        net = nn.Sequential(nn.Linear(8, 3))
        net[0].bias.requires_grad_(False)
        before = net[0].bias.clone()
        callback = run(net, "he")
        assert torch.equal(net[0].bias, before)
        assert rows(callback)["0.weight"].bias == ""

    def test_bias_none(self) -> None:
        net = nn.Sequential(nn.Linear(8, 3))
        before = net[0].bias.detach().clone()
        run(net, "he", bias=None)
        assert torch.equal(net[0].bias, before)


class TestPatterns:
    def net(self) -> nn.Module:
        return nn.Sequential(
            nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten()), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 3)
        )

    def run(self, *arguments: Any, **options: Any) -> WeightInitCallback:
        return run(self.net(), *arguments, shape=(1, 8), **options)

    def test_types_names_and_globs_in_order(self) -> None:
        callback = self.run({"net.3": "lecun", nn.Linear: "xavier", "Conv1d": "orthogonal"})
        assert {name: row.scheme for name, row in rows(callback).items()} == {
            "0.0.weight": "orthogonal", "1.weight": "xavier", "3.weight": "lecun",
        }  # fmt: skip

    def test_a_type_by_its_dotted_path_as_in_yaml(self) -> None:
        assert (
            rows(run(nn.Sequential(nn.Linear(8, 3)), {"torch.nn.Linear": "xavier", "*": "he"}))["0.weight"].scheme
            == "xavier"
        )

    def test_what_no_key_matches_is_left(self) -> None:
        callback = self.run({"net.0.*": "he", "*.1.weight": None})
        assert list(rows(callback)) == ["0.0.weight"]
        assert kept(callback) == {"1.weight": "`scheme` says None", "3.weight": "no entry of `scheme` matches"}

    def test_auto_for_some(self) -> None:
        found = rows(self.run({nn.Conv1d: "xavier", "*": "auto"}))
        assert {name: (row.scheme, row.activation) for name, row in found.items()} == {
            "0.0.weight": ("xavier", ""), "1.weight": ("xavier", "tanh"), "3.weight": ("lecun", "output"),
        }  # fmt: skip
        assert list(found) == ["0.0.weight", "1.weight", "3.weight"]

    def test_include_and_exclude(self) -> None:
        assert list(rows(self.run("he", include="net.0"))) == ["0.0.weight"]
        assert list(rows(self.run("he", exclude=["net.0", "net.1.weight"]))) == ["3.weight"]
        callback = self.run("he", include=["Linear"], exclude="net.3.bias")
        assert {name: row.bias for name, row in rows(callback).items()} == {"1.weight": "0", "3.weight": ""}
        assert kept(callback) == {"0.0.weight": "not included"}

    def test_a_type_that_is_not_there_is_no_mistake(self) -> None:
        assert len(rows(self.run({nn.LSTM: "orthogonal", "GRU": "he", "*": "he"}))) == 3

    def test_functions(self) -> None:
        callback = run(
            net := Embedded(),
            {nn.Embedding: partial(nn.init.trunc_normal_, std=0.02), "net.head": nn.init.ones_, "*": nn.init.zeros_},
        )
        assert 0.01 < float(net.table.weight.std().detach()) < 0.03
        assert torch.equal(net.head.weight.detach(), torch.ones(3, 16))
        assert {name: (row.scheme, row.gain) for name, row in rows(callback).items()} == {
            "table.weight": ("trunc_normal_", None), "head.weight": ("ones_", None),
        }  # fmt: skip
        assert kept(callback) == {"norm.weight": "normalization", "norm.bias": "normalization"}


def test_compiled_and_checkpointed_parts() -> None:
    class Checkpointed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)

    inner = torch.compile(nn.Sequential(nn.Linear(8, 16), nn.Tanh()), backend="eager")
    found = rows(run(nn.Sequential(inner, Checkpointed(nn.Linear(16, 16), nn.ReLU()), nn.Linear(16, 3))))
    assert {name: row.activation for name, row in found.items()} == {
        "0._orig_mod.0.weight": "tanh", "1.0.weight": "relu", "2.weight": "output",
    }  # fmt: skip
