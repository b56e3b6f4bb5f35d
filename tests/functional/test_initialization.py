"""Initial weights against the papers' formulas, torch's own functions, and the signal that they carry."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_tuning.functional import (
    activation_gain,
    fan_in_and_fan_out,
    initial_std,
    initialize_,
    set_forget_bias_,
)
from lightning_tuning.functional._layers import bias_names, weight_slots
from lightning_tuning.functional._recipes import recipe_for
from lightning_tuning.functional.initialization import named_generator

fans = st.integers(1, 600)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


FORMULAS = {
    "he": lambda n_in, n_out: math.sqrt(2 / n_in),
    "xavier": lambda n_in, n_out: math.sqrt(2 / (n_in + n_out)),
    "lecun": lambda n_in, n_out: math.sqrt(1 / n_in),
}
BOUNDS = {
    "he": lambda n_in, n_out: math.sqrt(6 / n_in),
    "xavier": lambda n_in, n_out: math.sqrt(6 / (n_in + n_out)),
    "lecun": lambda n_in, n_out: math.sqrt(3 / n_in),
}


class TestDraws:
    @settings(deadline=None, max_examples=40)
    @given(fans, fans, st.sampled_from(sorted(FORMULAS)), st.integers(0, 2**31))
    def test_std_is_that_of_the_formula(self, n_in: int, n_out: int, scheme: str, seed: int) -> None:
        assert initial_std(scheme, n_in, n_out) == pytest.approx(FORMULAS[scheme](n_in, n_out))
        weight = initialize_(torch.empty(n_out, n_in), scheme, generator=generator(seed))
        # The root mean square of n normal draws is off by 1 / sqrt(2n), 6 of which hypothesis will not find.
        tolerance = 6 / math.sqrt(2 * weight.numel())
        rms = float(weight.square().mean().sqrt())
        assert abs(rms / FORMULAS[scheme](n_in, n_out) - 1) < max(tolerance, 1e-3) or weight.numel() < 100

    @settings(deadline=None, max_examples=40)
    @given(fans, fans, st.sampled_from(sorted(BOUNDS)), st.integers(0, 2**31))
    def test_uniform_bound_is_that_of_the_formula(self, n_in: int, n_out: int, scheme: str, seed: int) -> None:
        weight = initialize_(torch.empty(n_out, n_in), scheme, distribution="uniform", generator=generator(seed))
        bound = BOUNDS[scheme](n_in, n_out)
        assert float(weight.abs().max()) <= bound * (1 + 1e-6)
        if weight.numel() > 1000:
            assert float(weight.abs().max()) > 0.97 * bound
            assert float(weight.std()) == pytest.approx(FORMULAS[scheme](n_in, n_out), rel=0.15)

    @pytest.mark.parametrize("shape", [(7, 5), (6, 4, 3), (6, 4, 3, 3), (2, 3, 3, 3, 3)])
    @pytest.mark.parametrize(
        ("arguments", "torch_function"),
        [
            ({"scheme": "he"}, lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g)),
            (
                {"scheme": "he", "distribution": "uniform"},
                lambda w, g: nn.init.kaiming_uniform_(w, nonlinearity="relu", generator=g),
            ),
            ({"scheme": "xavier"}, lambda w, g: nn.init.xavier_normal_(w, generator=g)),
            (
                {"scheme": "xavier", "distribution": "uniform", "gain": 5 / 3},
                lambda w, g: nn.init.xavier_uniform_(w, gain=5 / 3, generator=g),
            ),
            ({"scheme": "lecun"}, lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="linear", generator=g)),
            ({"scheme": "orthogonal", "gain": 2.0}, lambda w, g: nn.init.orthogonal_(w, 2.0, generator=g)),
        ],
    )
    def test_plain_shapes_get_the_very_numbers_of_torch(self, shape, arguments, torch_function) -> None:
        ours = initialize_(torch.empty(shape), **arguments, generator=generator(3))
        torch.testing.assert_close(ours, torch_function(torch.empty(shape), generator(3)), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("blocks", [1, 3, 4])
    def test_each_block_is_orthogonal(self, blocks: int) -> None:
        weight = initialize_(torch.empty(blocks * 5, 8), "orthogonal", blocks=blocks, gain=3.0, generator=generator())
        for block in weight.chunk(blocks):
            torch.testing.assert_close(block @ block.T, 9.0 * torch.eye(5))

    def test_blocks_count_their_own_outputs(self) -> None:
        weight = initialize_(torch.empty(3 * 200, 200), "xavier", blocks=3, generator=generator())
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / 400), rel=0.02)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("scheme", ["he", "xavier", "lecun", "orthogonal"])
    def test_other_precisions(self, dtype: torch.dtype, scheme: str) -> None:
        weight = initialize_(torch.empty(64, 256, dtype=dtype), scheme, generator=generator())
        expected = FORMULAS[scheme](256, 64) if scheme in FORMULAS else 1 / math.sqrt(256)
        assert weight.dtype == dtype
        assert float(weight.double().std()) == pytest.approx(expected, rel=0.03)

    def test_writes_in_place_without_a_graph(self) -> None:
        weight = nn.Parameter(torch.zeros(4, 4))
        assert initialize_(weight, "he") is weight
        assert weight.is_leaf
        assert weight.grad_fn is None
        assert weight.count_nonzero() == 16

    def test_draws_from_its_generator_alone(self) -> None:
        before = torch.get_rng_state()
        for scheme in ("he", "orthogonal"):
            initialize_(torch.empty(8, 8), scheme, generator=generator())
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
    @pytest.mark.parametrize("scheme", ["he", "orthogonal"])
    def test_an_empty_weight_stays_empty(self, shape: tuple[int, int], scheme: str) -> None:
        assert initialize_(torch.empty(shape), scheme).shape == shape

    @pytest.mark.parametrize(
        ("call", "named"),
        [
            (lambda: initialize_(torch.empty(2, 2), "hee"), "'hee'"),
            (lambda: initialize_(torch.empty(2, 2), "he", distribution="cauchy"), "'cauchy'"),
            (lambda: initialize_(torch.empty(2), "he"), "(2,)"),
            (lambda: initialize_(torch.empty(2, 2, dtype=torch.int64), "he"), "int64"),
            (lambda: initialize_(torch.empty(4, 2), "he", blocks=3), "`blocks`"),
            (lambda: initialize_(torch.empty(2, 2), "orthogonal", gain=math.nan), "`gain`"),
            (lambda: initial_std("orthogonal", 1, 1), "'orthogonal'"),
            (lambda: initial_std("he", 0, 1), "`fan_in`"),
            (lambda: initial_std("he", math.nan, 1), "`fan_in`"),
            (lambda: initial_std("he", 1, 1, gain=math.inf), "`gain`"),
            (lambda: initial_std("he", 1, 1, gain=0.0), "`gain`"),
            (lambda: fan_in_and_fan_out(torch.empty(3)), "(3,)"),
            (lambda: fan_in_and_fan_out(torch.empty(3, 3), groups=2), "`groups`"),
            (lambda: activation_gain(torch.zeros_like), "second moment"),
            (lambda: activation_gain(torch.log), "second moment"),
        ],
    )
    def test_bad_arguments_are_named(self, call, named: str) -> None:
        with pytest.raises(ValueError) as error:  # noqa: PT011  # the text is looked at below
            call()
        assert named in str(error.value)


class TestFans:
    @pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (5, 3, 2, 7), (5, 3, 2, 3, 4)])
    def test_plain_ones_are_those_of_torch(self, shape: tuple[int, ...]) -> None:
        assert fan_in_and_fan_out(torch.empty(shape)) == nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))

    @pytest.mark.parametrize(
        "layer",
        [
            nn.Conv1d(6, 4, 3, bias=False),
            nn.Conv2d(6, 4, 3, groups=2, bias=False),
            nn.Conv2d(6, 6, 3, groups=6, bias=False),
            nn.Conv3d(2, 4, 3, bias=False),
            nn.ConvTranspose1d(6, 4, 3, bias=False),
            nn.ConvTranspose2d(6, 4, 4, stride=2, bias=False),
            nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False),
            nn.ConvTranspose3d(2, 4, 2, stride=2, bias=False),
        ],
    )
    def test_fan_in_counts_what_an_output_adds_up(self, layer: nn.Module) -> None:
        """Naive oracle: a layer of ones applied to ones counts its inputs, away from the border."""
        (slot,) = weight_slots(layer)
        size = [24] * (layer.weight.dim() - 2)
        with torch.no_grad():
            layer.weight.fill_(1.0)
            counts = layer(torch.ones(1, layer.in_channels, *size))
        for dimension in range(2, counts.dim()):
            counts = counts.narrow(dimension, 8, 8)
        assert float(counts.mean()) == pytest.approx(slot.fans[0])

    @pytest.mark.parametrize("layer", [nn.Conv2d(6, 4, 3, groups=2, bias=False), nn.ConvTranspose2d(6, 4, 4, stride=2)])
    def test_fan_out_counts_where_an_input_goes(self, layer: nn.Module) -> None:
        (slot,) = weight_slots(layer)
        with torch.no_grad():
            layer.weight.fill_(1.0)
        inputs = torch.ones(1, 6, 20, 20, requires_grad=True)
        layer(inputs).sum().backward()
        assert float(inputs.grad[..., 8:12, 8:12].mean()) == pytest.approx(slot.fans[1])

    def test_a_stack_of_strided_transposed_convolutions_keeps_its_signal(self) -> None:
        x = torch.randn(4, 64, 6, 6, generator=generator(99))
        for number in range(4):
            layer = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1, bias=False)
            (slot,) = weight_slots(layer)
            initialize_(layer.weight, "he", fans=slot.fans, generator=generator(number))
            x = torch.relu(layer(x)).detach()
        assert 0.5 < float(x.square().mean()) < 2.0


class TestLayers:
    @pytest.mark.parametrize(
        ("layer", "expected"),
        [
            (nn.Linear(3, 5), [("weight", (3, 5), 1)]),
            (nn.Bilinear(3, 4, 5), [("weight", (12, 17.5), 1)]),
            (nn.Conv2d(4, 8, 3, groups=2), [("weight", (18, 36), 2)]),
            (nn.GRU(3, 5), [("weight_ih_l0", (3, 5), 3), ("weight_hh_l0", (5, 5), 3)]),
            (nn.RNNCell(3, 5), [("weight_ih", (3, 5), 1), ("weight_hh", (5, 5), 1)]),
            (nn.LSTMCell(3, 5), [("weight_ih", (3, 5), 4), ("weight_hh", (5, 5), 4)]),
            (
                nn.LSTM(3, 5, proj_size=2),
                [("weight_ih_l0", (3, 5), 4), ("weight_hh_l0", (2, 5), 4), ("weight_hr_l0", (5, 2), 1)],
            ),
            (nn.MultiheadAttention(6, 2), [("in_proj_weight", (6, 6), 3)]),
            (
                nn.MultiheadAttention(6, 2, kdim=4, vdim=3),
                [("q_proj_weight", (6, 6), 1), ("k_proj_weight", (4, 6), 1), ("v_proj_weight", (3, 6), 1)],
            ),
            (nn.Embedding(3, 5), []),
            (nn.BatchNorm2d(3), []),
            (nn.Sequential(nn.Linear(1, 1)), []),
        ],
    )
    def test_weights_of_a_layer(self, layer: nn.Module, expected: list) -> None:
        assert [(slot.name, slot.fans, slot.blocks) for slot in weight_slots(layer)] == expected

    def test_a_computed_weight_is_no_weight_of_the_layer(self) -> None:
        assert weight_slots(nn.utils.parametrizations.weight_norm(nn.Linear(3, 5))) == []
        assert weight_slots(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 5, 3))) == []

    def test_recurrent_weights_are_known_as_such(self) -> None:
        lstm = nn.LSTM(3, 5, num_layers=2, bidirectional=True)
        assert {slot.name for slot in weight_slots(lstm) if slot.recurrent} == {
            "weight_hh_l0", "weight_hh_l0_reverse", "weight_hh_l1", "weight_hh_l1_reverse",
        }  # fmt: skip

    @pytest.mark.parametrize(
        "build",
        [
            lambda: nn.Linear(300, 30),
            lambda: nn.Linear(1, 300),
            lambda: nn.Conv2d(8, 16, 3, groups=2),
            lambda: nn.ConvTranspose2d(8, 16, 3),
            lambda: nn.Bilinear(7, 8, 9),
            lambda: nn.LSTM(30, 20, proj_size=5),
            lambda: nn.GRUCell(30, 20),
            lambda: nn.MultiheadAttention(64, 4),
            lambda: nn.MultiheadAttention(64, 4, kdim=10, vdim=200),
            lambda: nn.Transformer(16, 2, 1, 1, 32, batch_first=True).encoder.layers[0].linear1,
        ],
    )
    def test_torch_stays_within_its_own_bounds(self, build) -> None:
        for seed in range(5):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                layer = build()
            for slot in weight_slots(layer):
                assert float(layer.get_parameter(slot.name).detach().abs().max()) <= slot.default_bound * (1 + 1e-6)

    def test_biases(self) -> None:
        assert bias_names(nn.Linear(2, 2)) == ["bias"]
        assert bias_names(nn.Linear(2, 2, bias=False)) == []
        assert bias_names(nn.GRU(2, 2)) == ["bias_ih_l0", "bias_hh_l0"]
        assert bias_names(nn.MultiheadAttention(2, 1, add_bias_kv=True)) == ["in_proj_bias"]
        assert bias_names(nn.MultiheadAttention(2, 1, bias=False)) == []


class TestForgetBias:
    @pytest.mark.parametrize("lstm", [nn.LSTM(3, 5, num_layers=2, bidirectional=True), nn.LSTMCell(3, 5)])
    @pytest.mark.parametrize("value", [1.0, 0.0, -2.5])
    def test_the_sum_of_both_biases_is_the_value(self, lstm: nn.Module, value: float) -> None:
        others = {n: p.detach().clone() for n, p in lstm.named_parameters()}
        set_forget_bias_(lstm, value)
        names = [name for name, _ in lstm.named_parameters() if name.startswith("bias_ih")]
        assert names
        for name in names:
            total = lstm.get_parameter(name) + lstm.get_parameter(name.replace("_ih", "_hh"))
            assert total[5:10].tolist() == [value] * 5
        for name, parameter in lstm.named_parameters():
            outside = [0, 1, 2, 3, 4, *range(10, 20)] if name.startswith("bias") else slice(None)
            assert torch.equal(parameter[outside], others[name][outside])

    def test_no_bias_no_change(self) -> None:
        set_forget_bias_(nn.LSTM(3, 5, bias=False))


class TestGains:
    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            (torch.relu, math.sqrt(2)),
            (lambda z: F.leaky_relu(z, 0.2), math.sqrt(2 / 1.04)),
            (F.selu, 1.0),
            (lambda z: z, 1.0),
            (lambda z: 3 * z, 1 / 3),
        ],
    )
    def test_known_ones(self, function, expected: float) -> None:
        assert activation_gain(function) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("function", [torch.tanh, F.gelu, F.silu, F.elu, F.mish, F.softplus, F.hardswish])
    def test_against_a_sample(self, function) -> None:
        z = torch.randn(400_000, generator=generator())
        assert activation_gain(function) == pytest.approx(float(function(z).square().mean() ** -0.5), rel=0.01)

    @pytest.mark.parametrize(
        ("activation", "arguments", "scheme", "gain"),
        [
            ("relu", {}, "he", math.sqrt(2)),
            ("relu6", {}, "he", math.sqrt(2)),
            ("clamp", {"min": 0, "max": None}, "he", math.sqrt(2)),
            ("clamp_min", {"min": 0.0}, "he", math.sqrt(2)),
            ("hardtanh", {"min_val": 0.0, "max_val": 6.0}, "he", math.sqrt(2)),
            ("hardtanh", {"min_val": -1.0, "max_val": 1.0}, "xavier", 5 / 3),
            ("threshold", {"threshold": 0, "value": 0}, "he", math.sqrt(2)),
            ("leaky_relu", {}, "he", math.sqrt(2 / 1.0001)),
            ("leaky_relu", {"negative_slope": 0.5}, "he", math.sqrt(2 / 1.25)),
            ("prelu", {}, "he", math.sqrt(2 / 1.0625)),
            ("rrelu", {"lower": 0.2, "upper": 0.2}, "he", math.sqrt(2 / 1.04)),
            ("tanh", {}, "xavier", 5 / 3),
            ("sigmoid", {}, "xavier", 1.0),
            ("glu", {}, "xavier", 1.0),
            ("selu", {}, "lecun", 1.0),
            ("gelu", {"approximate": "none"}, "he", 1.5335),
            ("gelu", {"approximate": "tanh"}, "he", 1.5337),
            ("silu", {}, "he", 1.6765),
            ("elu", {"alpha": 1.0}, "he", 1.2452),
        ],
    )
    def test_recipes(self, activation: str, arguments: dict, scheme: str, gain: float) -> None:
        recipe = recipe_for(activation, arguments)
        assert recipe is not None
        assert (recipe.scheme, recipe.gain) == (scheme, pytest.approx(gain, rel=2e-4))

    @pytest.mark.parametrize(
        ("name", "arguments"), [("softmax", {}), ("add", {}), ("", {}), ("clamp", {"min": 1e-7}), ("clamp", {})]
    )
    def test_what_is_no_activation_has_no_recipe(self, name: str, arguments: dict) -> None:
        assert recipe_for(name, arguments) is None

    @pytest.mark.parametrize(
        ("activation", "depth"),
        # Of the smooth rectifiers the second moment is a fixed point that repels: they need normalization when deep.
        [("relu", 30), ("leaky_relu", 30), ("elu", 30), ("selu", 30), ("gelu", 6), ("silu", 6), ("mish", 6)],
    )
    def test_the_second_moment_stays_through_the_layers(self, activation: str, depth: int) -> None:
        recipe = recipe_for(activation)
        assert recipe is not None
        x: Tensor = torch.randn(64, 256, generator=generator(99))
        for number in range(depth):
            weight = initialize_(torch.empty(256, 256), recipe.scheme, gain=recipe.gain, generator=generator(number))
            x = getattr(F, activation)(x @ weight.T)
        assert 0.2 < float(x.square().mean()) < 5.0


class TestNamedGenerator:
    def test_depends_on_seed_and_name_alone(self) -> None:
        draws = {
            (seed, name): torch.rand(4, generator=named_generator(seed, name))
            for seed in (0, 1, 2**63 + 5)
            for name in ("a", "b", "1/a")
        }
        again = torch.rand(4, generator=named_generator(1, "a"))
        assert torch.equal(again, draws[1, "a"])
        assert len({tuple(draw.tolist()) for draw in draws.values()}) == len(draws)
