"""The healthy runs are healthy: they learn, they are quiet, and they depend on their seed alone."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import CLASSIFIERS, MODEL_KINDS, ManualGAN, Mlp, TinyModule, blobs, quiet_trainer


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifiers_learn(kind: type[TinyModule]) -> None:
    trainer = quiet_trainer(max_epochs=4)
    trainer.fit(kind())
    assert trainer.callback_metrics["val_acc"] > 0.9


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_run_is_silent_and_leaves_no_file(kind: type[TinyModule], tmp_path, capfd) -> None:
    model, trainer = kind(batches=2), quiet_trainer()
    trainer.fit(model)
    trainer.test(model, verbose=False)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_weights_and_data_depend_on_the_seed_alone(kind: type[TinyModule]) -> None:
    before = torch.get_rng_state()
    first, again, other = kind(seed=3), kind(seed=3), kind(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    flat = [torch.nn.utils.parameters_to_vector(m.parameters()) for m in (first, again, other)]
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])
    batches = [next(iter(m.train_dataloader()))[0] for m in (first, again, other)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def test_epoch_has_the_batches_it_was_asked_for() -> None:
    trainer = quiet_trainer()
    trainer.fit(Mlp(batches=5, batch_size=4))
    assert trainer.global_step == 5


def test_gan_takes_two_optimizer_steps_per_batch() -> None:
    trainer = quiet_trainer()
    trainer.fit(ManualGAN(batches=3))
    assert trainer.global_step == 6


@pytest.mark.filterwarnings("ignore:You are trying to `self.log\\(\\)` but:UserWarning")
def test_barebones_is_accepted() -> None:
    trainer = quiet_trainer(barebones=True)
    trainer.fit(Mlp(batches=2))
    assert trainer.global_step == 2


def test_blobs_have_the_shape_asked_for() -> None:
    inputs, labels = blobs(7, (2, 3)).tensors
    assert inputs.shape == (7, 2, 3)
    assert labels.shape == (7,)
    assert set(labels.tolist()) <= {0, 1, 2}
