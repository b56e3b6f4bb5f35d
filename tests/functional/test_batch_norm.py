from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_tuning.functional import convert_batch_norm, recalibrate_batch_norm
from lightning_tuning.functional.batch_norm import cumulative_statistics, tracking_batch_norms


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Dropout(0.5), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4),
        nn.BatchNorm1d(4),
    )  # fmt: skip


def batches(number: int = 5, *, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 1, 6, 6, generator=generator) + i for i in range(number)]


def naive(activations: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each channel of each batch, averaged over batches, in float64."""
    means, variances = [], []
    for batch in activations:
        channels = batch.double().transpose(0, 1).flatten(1)
        means.append(channels.mean(1))
        variances.append(((channels - channels.mean(1, keepdim=True)) ** 2).sum(1) / (channels.shape[1] - 1))
    return torch.stack(means).mean(0), torch.stack(variances).mean(0)


def test_every_statistic_is_the_mean_over_the_batches_of_what_the_norm_is_given_without_dropout() -> None:
    given_to: dict[int, list[Tensor]] = {2: [], 6: []}
    model = net()
    for place, seen in given_to.items():
        model[place].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].clone()))
    assert recalibrate_batch_norm(model, batches()) == 2
    without_dropout = model[0](batches()[0])
    torch.testing.assert_close(given_to[2][0], without_dropout)
    for place, seen in given_to.items():
        mean, variance = naive(seen)
        torch.testing.assert_close(model[place].running_mean.double(), mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model[place].running_var.double(), variance, atol=1e-5, rtol=1e-5)
        assert int(model[place].num_batches_tracked) == 5


@given(momentum=st.one_of(st.none(), st.floats(0.01, 1)), number=st.integers(1, 4), training=st.booleans())
@settings(max_examples=15, deadline=None)
def test_modes_momenta_weights_and_random_numbers_are_as_before(
    momentum: float | None, number: int, training: bool
) -> None:
    model = net().train(training)
    model[1].train(not training)
    model[2].momentum = momentum
    modes = [part.training for part in model.modules()]
    weights = [p.clone() for p in model.parameters()]
    rng = torch.get_rng_state()
    recalibrate_batch_norm(model, batches(number))
    assert torch.equal(torch.get_rng_state(), rng)
    assert [part.training for part in model.modules()] == modes
    assert model[2].momentum == momentum
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_tuples_give_their_first_and_forward_is_followed() -> None:
    one, other = net(), net()
    recalibrate_batch_norm(one, [(batch, "label") for batch in batches()])
    recalibrate_batch_norm(other, [{"x": batch} for batch in batches()], forward=lambda batch: other(batch["x"]))
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))


def test_batch_renormalization_is_estimated_as_batch_norm_is() -> None:
    plain, renorm = net(), convert_batch_norm(net(), "renorm", r_steps=(0, 0), d_steps=(0, 0))
    recalibrate_batch_norm(plain, batches())
    recalibrate_batch_norm(renorm, batches())
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), renorm.buffers(), strict=True))
    assert (renorm[2].r_max, renorm[2].d_max) == (3.0, 5.0)


def test_what_is_excluded_or_keeps_no_statistics_is_left_alone() -> None:
    model = net()
    model[6] = nn.BatchNorm1d(4, track_running_stats=False)
    assert [*tracking_batch_norms(model)] == ["2"]
    assert recalibrate_batch_norm(model, batches(), exclude=["2"]) == 0
    assert not model[2].running_mean.any()
    assert recalibrate_batch_norm(nn.Linear(1, 1), iter(())) == 0


def test_no_batch_and_a_failure_leave_everything_as_it_was() -> None:
    model = net()
    model(batches()[0])
    before = [buffer.clone() for buffer in model.buffers()]
    with pytest.raises(ValueError, match=r"`batches` must have at least one batch, got none\."):
        recalibrate_batch_norm(model, [])
    with pytest.raises(RuntimeError):
        recalibrate_batch_norm(model, [batches()[0], torch.zeros(8, 2, 6, 6)])
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert all(part.training for part in model.modules())
    assert model[2].momentum == 0.1


def test_what_is_not_finite_carries_through() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    recalibrate_batch_norm(model, [torch.tensor([[float("nan"), 0.0], [1.0, 0.0]])])
    assert model[0].running_mean.isnan().tolist() == [True, False]
    assert model[0].running_var.isnan().tolist() == [True, False]
    assert float(model[0].running_var[1]) == 0


def test_statistics_may_go_on_from_those_that_are_there() -> None:
    """Two parts of a stream are the whole of it."""
    parts, whole = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    stream = [torch.randn(4, 1) * i for i in range(1, 5)]
    for half, reset in ((stream[:2], True), (stream[2:], False)):
        with cumulative_statistics([parts], reset=reset):
            for batch in half:
                parts(batch)
    recalibrate_batch_norm(whole, stream)
    torch.testing.assert_close(parts.running_var, whole.running_var)
    torch.testing.assert_close(parts.running_mean, whole.running_mean)
