"""The largest eigenvalue of a Hessian against the exact one, of the matrix written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_tuning.functional import hessian_top_eigenvalue, top_eigenvalue
from lightning_tuning.functional.curvature import CurvatureError
from lightning_tuning.functional.eigenvalues import TopEigenvalue


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=seeded(seed), dtype=torch.float64))[0]


def matrix_of(eigenvalues: list[float], seed: int = 0) -> Tensor:
    turn = rotation(len(eigenvalues), seed)
    return turn @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ turn.T


def quadratic(matrix: Tensor, *weights: Tensor) -> Tensor:
    point = torch.cat([w.reshape(-1) for w in weights])
    return point @ matrix.to(point.dtype) @ point / 2


def exact(loss: Callable[..., Tensor], weights: list[Tensor]) -> Tensor:
    """The Hessian, written out."""
    blocks = torch.autograd.functional.hessian(loss, tuple(weights))
    rows = [
        torch.cat([blocks[i][j].reshape(w.numel(), -1) for j in range(len(weights))], 1) for i, w in enumerate(weights)
    ]
    return torch.cat(rows)


def find(loss: Any, parameters: Any, iterations: int = 30, seed: int = 1, **settings: Any) -> TopEigenvalue:
    return hessian_top_eigenvalue(loss, parameters, iterations=iterations, generator=seeded(seed), **settings)


eigenvalues = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


@settings(max_examples=40)
@given(eigenvalues, st.integers(0, 99), st.sampled_from([torch.float32, torch.float64]))
def test_quadratics(values: list[float], seed: int, dtype: torch.dtype) -> None:
    matrix = matrix_of(values, seed)
    weight = torch.zeros(len(values), dtype=dtype, requires_grad=True)
    found = find(quadratic(matrix, weight), [weight], seed=seed)
    assert found.value.dtype == dtype
    size = max(map(abs, values))
    assert float(found.value) == pytest.approx(max(values), abs=2e-4 * size + 1e-30)


@settings(max_examples=40)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.integers(1, 8), st.integers(0, 99))
def test_what_is_found_early_is_too_small_and_its_residual_is_honest(
    values: list[float], iterations: int, seed: int
) -> None:
    matrix = matrix_of(values, seed)
    found = top_eigenvalue(
        lambda x: [matrix @ x[0]], [torch.randn(len(values), generator=seeded(seed), dtype=torch.float64)],
        iterations=iterations,
    )  # fmt: skip
    slack = 1e-9 * max(1e-20, *map(abs, values))
    assert float(found.value) <= max(values) + slack
    assert min(abs(value - float(found.value)) for value in values) <= float(found.residual) + slack
    assert found.iterations == iterations


@settings(max_examples=40)
@given(
    st.lists(st.floats(-10, 10), min_size=3, max_size=8),
    st.lists(st.floats(0.01, 100), min_size=8, max_size=8),
    st.lists(st.floats(0, 5), min_size=2, max_size=2),
    st.integers(0, 99),
)
def test_preconditioned_and_decayed(values: list[float], scales: list[float], decay: list[float], seed: int) -> None:
    matrix = matrix_of(values, seed)
    first, second = (torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (2, len(values) - 2))
    tensor = torch.tensor(scales[1 : len(values) - 1], dtype=torch.float64)
    found = find(quadratic(matrix, first, second), [first, second], preconditioner=[scales[0], tensor], decay=decay)
    diagonal = torch.cat([torch.full((2,), scales[0], dtype=torch.float64), tensor])
    added = torch.tensor([decay[0]] * 2 + [decay[1]] * (len(values) - 2), dtype=torch.float64)
    root = diagonal.rsqrt().diag()
    expected = torch.linalg.eigvalsh(root @ (matrix + added.diag()) @ root)
    assert float(found.value) == pytest.approx(float(expected[-1]), abs=1e-6 * float(expected.abs().max()) + 1e-9)


NETS: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)),
    "relu": lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)),
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.GELU(), nn.Linear(5, 3)),
    "unused": lambda: nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(4, 3)}),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(4))
def test_nets(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    net = NETS[name]().double()
    x, y = torch.randn(12, 4).double(), torch.randint(3, (12,))
    used = net["used"] if name == "unused" else net
    names = [key for key, _ in used.named_parameters()]

    def loss(*weights: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(used, dict(zip(names, weights, strict=True)), (x,)), y)

    hessian = exact(loss, list(used.parameters()))
    found = find(lambda: F.cross_entropy(used(x), y), net.parameters(), iterations=100)
    assert float(found.value) == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-6)
    assert all(p.grad is None for p in net.parameters())


def test_the_largest_is_not_the_one_of_the_largest_size() -> None:
    weight = torch.zeros(5, requires_grad=True)
    found = find(quadratic(matrix_of([-50.0, -3.0, 0.0, 1.0, 2.0]), weight), [weight])
    assert float(found.value) == pytest.approx(2.0, rel=1e-4)


def test_negative_throughout() -> None:
    weight = torch.zeros(4, requires_grad=True)
    found = find(quadratic(matrix_of([-50.0, -3.0, -2.5, -2.0]), weight), [weight])
    assert float(found.value) == pytest.approx(-2.0, rel=1e-4)
    assert float(find(-weight.square().sum(), [weight]).value) == pytest.approx(-2.0)


@pytest.mark.parametrize("gap", [0.0, 1e-6, 1e-3, 1e-2])
def test_close_eigenvalues(gap: float) -> None:
    """The gap to the second does not matter for the value, only to the rest."""
    weight = torch.zeros(40, requires_grad=True)
    rest = torch.linspace(0, 1, 38).tolist()
    found = find(quadratic(matrix_of([*rest, 3 * (1 - gap), 3.0]), weight), [weight], iterations=12)
    assert float(found.value) == pytest.approx(3.0, rel=max(gap, 1e-5))


def test_a_spectrum_without_a_gap_is_found_to_a_percent() -> None:
    weight = torch.zeros(300, requires_grad=True)
    found = find(quadratic(matrix_of(torch.linspace(0, 1, 300).tolist()), weight), [weight], iterations=20)
    assert 0.98 < float(found.value) <= 1 + 1e-5


def test_eigenvalues_stay_right_long_after_the_vectors_lost_their_right_angles() -> None:
    weight = torch.zeros(30, requires_grad=True)
    values = [1000.0, *torch.linspace(-5, 5, 29).tolist()]
    found = find(quadratic(matrix_of(values), weight), [weight], iterations=200)
    assert float(found.value) == pytest.approx(1000.0, rel=1e-4)


def test_a_linear_loss_has_no_curvature() -> None:
    first, second = torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    found = find(first.sum() + 3 * second.sum(), [first, second])
    assert [float(n) for n in found] == [0.0, 0.0, 30.0]
    decayed = find(first.sum() + 3 * second.sum(), [first, second], decay=[0.5, 0.25])
    assert float(decayed.value) == pytest.approx(0.5)


def test_linear_in_one_and_curved_in_the_other() -> None:
    first, second = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    assert float(find(first.sum() + 2 * second.square().sum(), [first, second]).value) == pytest.approx(4.0, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(bad: float) -> None:
    weight = torch.ones(3, requires_grad=True)
    found = find((weight * torch.tensor([1.0, bad, 1.0])).square().sum(), [weight])
    assert math.isnan(found.value)
    assert math.isnan(found.residual)


def test_a_vector_of_nothing() -> None:
    empty, weight = torch.zeros(0, requires_grad=True), torch.ones(2, requires_grad=True)
    assert float(find(empty.sum() ** 2, [empty]).value) == 0.0
    assert float(find(empty.sum() + weight.square().sum(), [empty, weight]).value) == pytest.approx(2.0)


def test_one_number() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    assert float(find(weight**3, [weight], iterations=1).value) == pytest.approx(12.0)
    assert float(find((weight**3).reshape(1, 1), [weight]).value) == pytest.approx(12.0)


def test_tied_and_frozen_parameters() -> None:
    weight, frozen = torch.ones(2, requires_grad=True), torch.ones(2)
    found = find((weight + frozen).square().sum(), [weight, frozen, weight])
    assert float(found.value) == pytest.approx(2.0)


def test_held_fixed_by_an_infinite_preconditioner() -> None:
    first, second = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    found = find(50 * first.square().sum() + second.square().sum(), [first, second], preconditioner=[math.inf, 1.0])
    assert float(found.value) == pytest.approx(2.0)


def test_complex_parameters_count_as_two_real_ones() -> None:
    weight = torch.tensor([1 + 2j, 3 - 1j], requires_grad=True)
    found = find(3 * weight.real.square().sum() + weight.imag.square().sum(), [weight])
    assert float(found.value) == pytest.approx(6.0, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_single(dtype: torch.dtype) -> None:
    weight = torch.full((4000,), 0.01, dtype=dtype, requires_grad=True)
    found = find((3 * weight.square()).float().sum(), [weight], iterations=20)
    assert found.value.dtype == torch.float32
    assert float(found.value) == pytest.approx(6.0, rel=5e-2)  # the products themselves have 8 bits


def test_the_same_generator_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    net = NETS["tanh"]()
    x, y = torch.randn(12, 4), torch.randint(3, (12,))
    before = torch.get_rng_state()
    one, other = (find(F.cross_entropy(net(x), y), net.parameters(), iterations=7) for _ in range(2))
    assert torch.equal(one.value, other.value)
    assert torch.equal(one.residual, other.residual)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_stops_when_told() -> None:
    weight = torch.zeros(30, requires_grad=True)
    matrix = matrix_of([100.0, *torch.linspace(-1, 1, 29).tolist()])
    seen: list[int] = []

    def enough(top: TopEigenvalue) -> bool:
        seen.append(top.iterations)
        return float(top.residual) <= 1e-3 * float(top.value)

    found = find(quadratic(matrix, weight), [weight], stop=enough)
    assert found.iterations < 10
    assert seen == list(range(1, found.iterations + 1))
    assert float(found.value) == pytest.approx(100.0, rel=1e-3)


class Cubed(torch.autograd.Function):
    """As many people write their own: its backward pass is for once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


def attention(weight: Tensor) -> Tensor:
    tokens = torch.randn(1, 2, 5, 8, generator=seeded()) @ weight
    return F.scaled_dot_product_attention(tokens, tokens, tokens).square().sum()


def in_place(weight: Tensor) -> Tensor:
    root = weight.exp()
    loss = root.square().sum()
    root.add_(1)
    return loss


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (lambda weight: Cubed.apply(weight).square().sum(), (3,)),
        (lambda weight: Cubed.apply(weight.exp()).sum(), (3,)),
        (attention, (8, 8)),
        (in_place, (3,)),
        (lambda weight: F.embedding(torch.tensor([0, 1]), weight, sparse=True).square().sum(), (3, 2)),
    ],
    ids=[
        "once differentiable, curved after it",
        "once differentiable, curved before it",
        "flash attention",
        "written in place",
        "sparse",
    ],
)
def test_no_second_derivative(loss: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    weight = torch.full(shape, 0.5, requires_grad=True)
    with pytest.raises(CurvatureError, match=r"differentia|sparse"):
        find(loss(weight), [weight])


def test_attention_without_its_fast_kernels() -> None:
    weight = torch.randn(8, 8, generator=seeded(2)).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        found = find(attention(weight), [weight])
    assert float(found.value) == pytest.approx(
        float(torch.linalg.eigvalsh(exact(_math_attention, [weight.detach()]))[-1]), rel=1e-3
    )


def _math_attention(weight: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return attention(weight)


@pytest.mark.parametrize(
    "parameters",
    [list, lambda: [torch.ones(2)], lambda: [torch.ones(2, requires_grad=True)]],
    ids=["none", "frozen", "elsewhere"],
)
def test_nothing_reaches_the_loss(parameters: Callable[[], list[Tensor]]) -> None:
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(CurvatureError, match="no parameter that requires a gradient reaches the loss"):
        find(weight.square().sum(), parameters())


def test_a_loss_without_a_graph() -> None:
    with pytest.raises(CurvatureError, match="reaches the loss"):
        find(torch.tensor(1.0), [torch.ones(2, requires_grad=True)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "`iterations` must be at least 1, got 0"),
        ({"preconditioner": [1.0, 2.0]}, "`preconditioner` must have one entry for each of 1 parameters, got 2"),
        ({"decay": []}, "`decay` must have one entry for each of 1 parameters, got 0"),
    ],
)
def test_bad_arguments(settings: dict[str, Any], message: str) -> None:
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        find(weight.square().sum(), [weight], **settings)


def test_a_loss_is_one_number() -> None:
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"`loss` must be one number, got a tensor of shape \(2,\)"):
        find(weight.square(), [weight])


class NoScalarRead(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back() -> None:
    torch.manual_seed(0)
    net = NETS["tanh"]()
    x, y = torch.randn(12, 4), torch.randint(3, (12,))
    scales = [p.detach().abs() + 0.1 for p in net.parameters()]
    with NoScalarRead():
        found = find(F.cross_entropy(net(x), y), net.parameters(), preconditioner=scales)
    assert found.value.isfinite()
    with pytest.raises(AssertionError), NoScalarRead():
        find(F.cross_entropy(net(x), y), net.parameters(), stop=lambda top: bool(top.value > 0))
