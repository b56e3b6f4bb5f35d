from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_tuning.functional import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d

KINDS = [
    (BatchRenorm1d, nn.BatchNorm1d, (6, 3)),
    (BatchRenorm1d, nn.BatchNorm1d, (6, 3, 5)),
    (BatchRenorm2d, nn.BatchNorm2d, (4, 3, 5, 5)),
    (BatchRenorm3d, nn.BatchNorm3d, (2, 3, 2, 3, 3)),
]


def inputs(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3 + 1


@pytest.mark.parametrize(("kind", "plain", "shape"), KINDS)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_without_room_it_is_batch_norm_bit_for_bit(
    kind: Any, plain: Any, shape: tuple[int, ...], momentum: Any
) -> None:
    norm, batch_norm = kind(3, momentum=momentum, r_max=1.0, d_max=0.0), plain(3, momentum=momentum)
    for seed in range(3):
        x, y = (inputs(shape, seed).requires_grad_() for _ in range(2))
        out, expected = norm(x), batch_norm(y)
        (out**3).sum().backward()
        (expected**3).sum().backward()
        assert torch.equal(out, expected)
        torch.testing.assert_close(x.grad, y.grad)
    assert [*norm.state_dict()] == [*batch_norm.state_dict()]
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), batch_norm.buffers(), strict=True))
    assert torch.equal(norm.eval()(x), batch_norm.eval()(x))
    torch.testing.assert_close(norm.weight.grad, batch_norm.weight.grad)
    torch.testing.assert_close(norm.bias.grad, batch_norm.bias.grad)


def by_the_formula(norm: nn.Module, x: Tensor, r_max: float, d_max: float) -> Tensor:
    """Equations of the paper, channel by channel."""
    out = torch.empty_like(x)
    for channel in range(x.shape[1]):
        part = x[:, channel]
        mean, sigma = part.mean(), ((part - part.mean()) ** 2).mean().add(norm.eps).sqrt()
        running = norm.running_var[channel].add(norm.eps).sqrt()
        r = (sigma / running).detach().clamp(1 / r_max, r_max)
        d = ((mean - norm.running_mean[channel]) / running).detach().clamp(-d_max, d_max)
        out[:, channel] = norm.weight[channel] * ((part - mean) / sigma * r + d) + norm.bias[channel]
    return out


def test_forward_and_gradient_are_the_papers() -> None:
    norm = BatchRenorm2d(3, r_max=2.0, d_max=0.5, r_steps=(0, 0), d_steps=(0, 0))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
        norm.running_var.copy_(torch.tensor([0.1, 9.0, 100.0]))  # r clipped above, free, clipped below
        norm.running_mean.copy_(torch.tensor([-9.0, 1.1, 99.0]))
    x, y = (inputs((4, 3, 5, 5)).requires_grad_() for _ in range(2))
    expected = by_the_formula(copy.deepcopy(norm), y, 2.0, 0.5)
    out = norm(x)
    torch.testing.assert_close(out, expected)
    (out**2).sum().backward()
    (expected**2).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-4)


def test_where_nothing_is_clipped_training_is_evaluation() -> None:
    norm = BatchRenorm1d(3, r_max=100.0, d_max=100.0, r_steps=(0, 0), d_steps=(0, 0))
    before = copy.deepcopy(norm).eval()
    x = inputs((6, 3))
    torch.testing.assert_close(norm(x), before(x))


@pytest.mark.parametrize(("seen", "share"), [(0, 0.0), (10, 0.0), (15, 0.5), (20, 1.0), (99, 1.0)])
def test_the_bounds_open_with_the_batches_seen(seen: int, share: float) -> None:
    norm = BatchRenorm1d(3, r_max=3.0, d_max=5.0, r_steps=(10, 20), d_steps=(10, 20))
    with torch.no_grad():
        norm.running_var.fill_(1e-4)
        norm.running_mean.fill_(-1e3)
        norm.num_batches_tracked.fill_(seen)
    x = inputs((6, 3))
    expected = by_the_formula(copy.deepcopy(norm), x, 1 + 2 * share, 5 * share)
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("affine", [True, False])
def test_bf16_autocast_pickle_and_no_affine(affine: bool) -> None:
    norm = pickle.loads(pickle.dumps(BatchRenorm2d(3, affine=affine, r_steps=(0, 0), d_steps=(0, 0))))
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(nn.Conv2d(1, 3, 3)(inputs((4, 1, 6, 6))))
    assert out.isfinite().all()
    assert norm.running_mean.dtype is torch.float32
    assert "r_max=3" in repr(norm)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(value: float) -> None:
    norm = BatchRenorm1d(2)
    x = torch.tensor([[value, 0.0], [1.0, 1.0]])
    out = norm(x)
    assert not out[:, 0].isfinite().any()
    assert out[:, 1].isfinite().all()


def test_one_value_per_channel_is_refused_as_torch_does() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchRenorm1d(2)(torch.zeros(1, 2))


@pytest.mark.parametrize("kind", [BatchRenorm1d, BatchRenorm2d, BatchRenorm3d])
def test_other_shapes_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} expects"):
        kind(3)(torch.zeros(2, 3, 1, 1, 1, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r_max": 0.5}, r"`r_max` must be a finite number of at least 1, got 0\.5\."),
        ({"d_max": -1.0}, r"`d_max` must be a finite number of at least 0, got -1\.0\."),
        ({"d_max": float("nan")}, r"`d_max` must be a finite number of at least 0, got nan\."),
        ({"r_steps": (5, 1)}, r"`r_steps` must be two whole numbers, 0 <= first <= last, got \(5, 1\)\."),
        ({"d_steps": 5}, r"`d_steps` must be two whole numbers, 0 <= first <= last, got 5\."),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchRenorm2d(3, **arguments)
