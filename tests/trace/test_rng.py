from __future__ import annotations

import random
import timeit
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_tuning.trace.rng import RngState, _plain

DRAWS = {
    "torch": lambda: torch.rand(3).tolist(),
    "torch normal": lambda: torch.randn(1).tolist(),  # likewise from the store, see NumPy's
    "torch normal double": lambda: torch.randn(1, dtype=torch.float64).tolist(),
    "python": lambda: [random.random(), random.gauss(0, 1)],
    "numpy": lambda: np.random.rand(2).tolist(),
    "numpy normal": lambda: [
        np.random.randn()
    ],  # the second of a pair comes from the store, without a move of the generator
    "numpy permutation": lambda: np.random.permutation(5).tolist(),
}


def draw_all() -> list[list[float]]:
    return [draw() for draw in DRAWS.values()]


def test_restored_generators_repeat_themselves():
    state = RngState.capture()
    first = draw_all()
    assert draw_all() != first
    state.restore()
    assert draw_all() == first


def test_capture_draws_nothing():
    start = RngState.capture()
    first = draw_all()
    start.restore()
    for _ in range(3):
        RngState.capture()
    assert draw_all() == first


@given(st.lists(st.sampled_from([*DRAWS, "seed", "capture", "restore"]), max_size=12))
def test_snapshot_is_true_at_any_moment(actions):
    # States are read only where the generators moved; the libraries' own answers are the oracle.
    saved = RngState.capture()
    for action in actions:
        if action == "seed":
            torch.manual_seed(3)
            np.random.seed(3)
            random.seed(3)
        elif action == "capture":
            saved = RngState.capture()
        elif action == "restore":
            saved.restore()
        else:
            DRAWS[action]()
        now, truth = RngState.capture(), np.random.get_state(legacy=False)
        assert torch.equal(now.cpu, torch.get_rng_state())
        assert now.python == random.getstate()
        assert now.numpy["has_gauss"] == truth["has_gauss"]
        assert now.numpy["gauss"] == truth["gauss"] or not truth["has_gauss"]
        assert now.numpy["state"]["pos"] == truth["state"]["pos"]
        assert (now.numpy["state"]["key"] == truth["state"]["key"]).all()


def test_another_bit_generator_of_numpy():
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(1))
        state = RngState.capture()
        first = np.random.rand(3).tolist()
        RngState.from_state_dict(state.state_dict()).restore()
        assert np.random.rand(3).tolist() == first
    finally:
        np.random.set_bit_generator(before)


def test_another_bit_generator_of_numpy_between_two_captures():
    # Nothing else moves, and the one that was there before keeps its place.
    np.random.seed(3)
    torch.manual_seed(3)
    before = RngState.capture()
    own = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(1))
        assert RngState.capture() != before
    finally:
        np.random.set_bit_generator(own)
    assert RngState.capture() == before


def test_what_did_not_move_is_the_same_object():
    np.random.seed(3)
    torch.manual_seed(3)
    before = RngState.capture()
    assert RngState.capture() is before
    random.random()
    after = RngState.capture()
    assert after is not before
    assert after.cpu is before.cpu
    assert after.numpy is before.numpy
    assert RngState.capture() is after


def test_each_draw_of_torch_is_seen():
    torch.manual_seed(3)
    for _ in range(1300):  # over two refills of its 624 words
        torch.randint(2, (1,))
        assert torch.equal(RngState.capture().cpu, torch.get_rng_state())


def test_a_state_of_the_same_words_with_a_number_in_store():
    torch.manual_seed(3)
    torch.randn(1)
    held = torch.get_rng_state()
    torch.randn(1)  # takes it out of the store, without a move of the generator
    emptied = torch.get_rng_state()
    for state in (held, emptied, held, emptied):
        torch.set_rng_state(state)
        assert torch.equal(RngState.capture().cpu, state)


def test_a_library_of_another_layout_is_asked_every_time(monkeypatch):
    for window in ("_cpu_windows", "_python_window"):
        monkeypatch.setattr(f"lightning_tuning.trace._rng_windows.{window}", lambda: None)
    for draw in DRAWS.values():
        draw()
        now = RngState.capture()
        assert torch.equal(now.cpu, torch.get_rng_state())
        assert now.python == random.getstate()
        assert _plain(now.numpy) == _plain(np.random.get_state(legacy=False))


def test_survives_a_checkpoint_of_weights_only():
    np.random.randn()  # one normal number in store
    random.gauss(0, 1)
    state = RngState.capture()
    first = draw_all()
    file = BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    loaded = RngState.from_state_dict(torch.load(file, weights_only=True))
    assert loaded == state
    loaded.restore()
    assert draw_all() == first


def test_equality_tells_one_draw():
    state = RngState.capture()
    assert state == RngState.capture()
    for draw in DRAWS.values():
        before = RngState.capture()
        draw()
        assert RngState.capture() != before
    assert state != "a state"


def test_incomplete_state_dict():
    with pytest.raises(ValueError, match=r"`state` must be .* lacks \['numpy', 'python'\]"):
        RngState.from_state_dict({"cpu": torch.get_rng_state(), "devices": {}})


def test_unknown_devices_are_passed_over():
    state = RngState(torch.get_rng_state(), {"cuda:7": torch.zeros(16, dtype=torch.uint8)})
    state.restore()
    assert torch.equal(torch.get_rng_state(), state.cpu)


def test_cheap_enough_for_every_step():
    # Some 20 microseconds on a quiet core; the bound only catches an accident (a copy through Python, a device read).
    RngState.capture()
    seconds = min(timeit.repeat(RngState.capture, number=100, repeat=5)) / 100
    assert seconds < 1e-3
