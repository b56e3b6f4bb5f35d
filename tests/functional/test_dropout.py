from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_tuning.functional import UOut, apply_dropout, dropout_rate
from lightning_tuning.functional.dropout import dropout_setting
from lightning_tuning.functional.inserted_layers import insert_layer, inserted_layer


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 2))


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_uout_multiplies_the_variance_by_one_plus_a_third_of_beta_squared(beta: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(400_000)
    y = UOut(beta)(x)
    assert float(y.var() / x.var()) == pytest.approx(1 + beta**2 / 3, abs=0.006)
    noise = y / x
    assert 1 - beta - 1e-5 <= float(noise.min()) <= 1 - 0.99 * beta
    assert 1 + 0.99 * beta <= float(noise.max()) <= 1 + beta + 1e-5
    assert float(noise.mean()) == pytest.approx(1, abs=0.003)


def test_uout_passes_gradients_and_does_nothing_in_evaluation() -> None:
    x = torch.ones(3, requires_grad=True)
    y = UOut(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert UOut(0.5).eval()(x) is x
    assert UOut(0)(x) is x
    assert repr(UOut(0.2)) == "UOut(beta=0.2)"
    assert UOut()(torch.zeros(0)).shape == (0,)
    assert UOut()(torch.tensor([math.nan, math.inf])).isfinite().sum() == 0


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan, "1", True])
def test_uout_refuses(beta: Any) -> None:
    with pytest.raises(ValueError, match=r"`beta` must be between 0 and 1, got "):
        UOut(beta)


def test_before_the_head_the_input_of_the_last_linear_is_dropped() -> None:
    model, plain = net(), net()
    assert apply_dropout(model, p=0.5) == ["3"]
    assert [*model.state_dict()] == [*plain.state_dict()]
    x = torch.randn(5, 4)
    torch.manual_seed(1)
    out = model(x)
    torch.manual_seed(1)
    assert torch.equal(out, plain[3](nn.functional.dropout(plain[:3](x), 0.5)))
    assert torch.equal(model.eval()(x), plain(x))


def test_it_is_pickled_copied_printed_and_follows_modes() -> None:
    model = net()
    apply_dropout(model, p=0.9)
    x = torch.randn(5, 4)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin[3].inserted_before is not model[3].inserted_before
        torch.manual_seed(1)
        out = twin(x)
        torch.manual_seed(1)
        assert torch.equal(out, model(x))
        apply_dropout(twin, p=0.0)
    assert model[3].inserted_before.p == 0.9
    assert "inserted_before" in repr(model)
    model.eval()
    assert not model[3].inserted_before.training


def test_again_sets_the_rate() -> None:
    model = net().eval()
    for p in (0.5, 0.2):
        apply_dropout(model, p=p)
    assert model[3].inserted_before.p == 0.2
    assert len(model[3]._forward_pre_hooks) == 1
    assert not model[3].inserted_before.training


def test_named_layers_before_and_behind() -> None:
    model = net()
    assert apply_dropout(model, "2", 0.1) == ["2"]  # the Sequential itself, so its first layer
    assert isinstance(inserted_layer(model[2][0], "before"), nn.Dropout)
    assert inserted_layer(model[2][1], "before") is None
    assert apply_dropout(model, ["0", "2"], 0.1, side="behind") == ["0", "2"]
    assert isinstance(inserted_layer(model[2][1], "behind"), nn.Dropout)
    assert [*model.state_dict()] == [*net().state_dict()]
    x = torch.randn(64, 4)
    assert not torch.equal(model(x), net()(x))
    assert torch.equal(model.eval()(x), net()(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1.0}, r"`p` must be at least 0 and less than 1, got 1\.0\."),
        ({"p": math.nan}, r"`p` must be at least 0 and less than 1, got nan\."),
        ({"where": "9"}, r"`where` must mean a layer, got '9'; there are: 0, 1, 2, 2\.0, 2\.1, 3\."),
        ({"where": "0", "side": "after"}, r"`side` must be one of \('before', 'behind'\), got 'after'\."),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_dropout(net(), **arguments)


def test_no_linear_layer_and_containers_that_are_not_called() -> None:
    with pytest.raises(ValueError, match=r"`where` must be globs on names for a net without nn\.Linear"):
        apply_dropout(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match=r"uncalled ModuleList"):
        insert_layer(nn.ModuleList([nn.ReLU()]), nn.Dropout(), "before")
    lstm = nn.LSTM(2, 2)
    insert_layer(lstm, nn.Dropout(), "behind")
    with pytest.raises(TypeError, match="needs a tensor"):
        lstm(torch.zeros(1, 1, 2))


SHAPES = ("linear", "cosine", "exponential", "step")


@given(
    shape=st.sampled_from(SHAPES),
    start=st.floats(0, 0.9),
    end=st.floats(0, 0.9),
    progress=st.floats(-1, 2),
    later=st.floats(0, 1),
)
def test_rates_go_from_start_to_end_and_never_back(
    shape: Any, start: float, end: float, progress: float, later: float
) -> None:
    assert dropout_rate(0, start, end, shape) == pytest.approx(start)
    assert dropout_rate(1, start, end, shape) == end
    assert dropout_rate(5, start, end, shape) == end
    now, then = (dropout_rate(t, start, end, shape) for t in (progress, max(progress, later)))
    assert abs(end - then) <= abs(end - now) + 1e-9
    assert min(start, end) - 1e-9 <= now <= max(start, end) + 1e-9


def test_rates_by_hand() -> None:
    assert dropout_rate(0.25, 0.0, 0.4) == pytest.approx(0.1)
    assert dropout_rate(0.5, 0.4, 0.0, "cosine") == pytest.approx(0.2)
    # Curriculum dropout: keep = (1 - keep_end) exp(-gamma t) + keep_end with gamma = 10 / T.
    keep = (1 - 0.5) * math.exp(-10 * 0.3) + 0.5
    assert dropout_rate(0.3, 0.0, 0.5, "exponential") == pytest.approx(1 - keep)


def test_who_has_a_rate() -> None:
    assert dropout_setting(nn.LSTM(2, 2)) is None  # torch itself warns of a rate there
    assert dropout_setting(nn.MultiheadAttention(2, 1)) == "dropout"
    assert dropout_setting(nn.AlphaDropout()) == "p"
