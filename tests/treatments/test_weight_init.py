"""``WeightInitCallback`` in a run: when it acts, what it leaves alone, and that nothing else changes."""

from __future__ import annotations

import copy
import logging
import math
import pickle
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_tuning.runtime import Desk
from lightning_tuning.treatments import WeightInitCallback, weight_init
from tests.helpers import MODEL_KINDS, BNConvNet, DropoutNet, LSTMNet, ManualGAN, Mlp, TinyModule, quiet_trainer


class Still(Mlp):
    """Learns nothing: its weights at the end are those of the start."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Wide(Still):
    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 3))


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def fit(model: pl.LightningModule, *callbacks: pl.Callback, **trainer: Any) -> pl.Trainer:
    trainer = quiet_trainer(callbacks=list(callbacks), **trainer)
    trainer.fit(model)
    return trainer


class Snapshot(pl.Callback):
    """The weights as they are at the points where somebody could look at them."""

    def __init__(self) -> None:
        self.at: dict[str, dict[str, torch.Tensor]] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.at["fit_start"] = weights(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.at["train_start"] = weights(pl_module)

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.at.setdefault("first_step", weights(pl_module))


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("he", math.sqrt(2 / 512)),
        ("xavier", math.sqrt(2 / 1024)),
        ("lecun", math.sqrt(1 / 512)),
        ("orthogonal", math.sqrt(1 / 512)),
        ("auto", 5 / 3 * math.sqrt(2 / 1024)),
    ],
)
def test_schemes(scheme: str, expected: float, distribution: str) -> None:
    model = Wide()
    callback = WeightInitCallback(scheme, distribution=distribution, bias=0.25)
    fit(model, callback)
    weight = model.net[2].weight.detach()
    assert float(weight.std()) == pytest.approx(expected, rel=0.02)
    assert torch.equal(model.net[2].bias.detach(), torch.full((512,), 0.25))
    if scheme != "orthogonal":
        largest = float(weight.abs().max()) / expected
        assert largest <= math.sqrt(3) * 1.001 if distribution == "uniform" else largest > 3


def test_auto_reads_the_activations() -> None:
    model, callback = Wide(), WeightInitCallback()
    fit(model, callback)
    rows = {row.name: row for row in callback.report_.initialized}
    assert [(r.scheme, r.gain, r.activation) for r in rows.values()] == [
        ("he", math.sqrt(2), "relu"),
        ("xavier", 5 / 3, "tanh"),
        ("lecun", 1.0, "output"),
    ]
    assert float(model.net[0].weight.std(correction=0).detach()) == pytest.approx(rows["net.0.weight"].std_after)
    assert rows["net.0.weight"].std_before == pytest.approx(1 / math.sqrt(8 * 3), rel=0.05)
    assert not callback.report_.left_alone


class TestMoment:
    def test_a_plain_scheme_comes_before_everybody(self) -> None:
        snapshot = Snapshot()
        model = Still()
        fit(model, WeightInitCallback("he"), snapshot)
        assert same(snapshot.at["fit_start"], snapshot.at["first_step"])
        assert not same(snapshot.at["fit_start"], weights(Still()))

    def test_auto_comes_before_the_first_step(self) -> None:
        snapshot = Snapshot()
        fit(model := Still(), WeightInitCallback(), snapshot)
        assert same(snapshot.at["train_start"], weights(Still()))
        assert same(snapshot.at["first_step"], weights(model))
        assert not same(snapshot.at["first_step"], snapshot.at["train_start"])

    def test_layers_made_in_configure_model_are_found(self) -> None:
        class Late(Still):
            def __init__(self) -> None:
                super().__init__()
                del self.net

            def configure_model(self) -> None:
                self.net = self.build()

        for scheme in ("xavier", "auto"):
            callback = WeightInitCallback(scheme)
            fit(Late(), callback)
            assert len(callback.report_.initialized) == 3

    @pytest.mark.parametrize("scheme", ["he", "auto"])
    def test_nothing_stays_on_the_module(self, scheme: str) -> None:
        model = Still()
        before = set(vars(model))
        fit(model, WeightInitCallback(scheme), WeightInitCallback(scheme, include="net.0"))
        assert set(vars(model)) - before <= {"_trainer", "_hparams"}
        assert "configure_model" not in vars(model)

    def test_nothing_stays_on_the_module_after_an_exception(self) -> None:
        class Broken(Still):
            def setup(self, stage: str) -> None:
                raise RuntimeError("no data")

        model = Broken()
        with pytest.raises(RuntimeError, match="no data"):
            fit(model, WeightInitCallback("he"), WeightInitCallback("he", include="net.0"))
        assert "configure_model" not in vars(model)

    def test_only_fit_initializes(self) -> None:
        model = Still()
        trainer = quiet_trainer(callbacks=[WeightInitCallback("he")])
        trainer.validate(model, verbose=False)
        trainer.test(model, verbose=False)
        trainer.predict(model)
        assert same(weights(model), weights(Still()))
        assert "configure_model" not in vars(model)


class TestTrainedWeightsStay:
    @pytest.mark.parametrize("scheme", ["he", "auto"])
    def test_resumed(self, scheme: str, tmp_path: Any) -> None:
        fit(Mlp()).save_checkpoint(tmp_path / "last.ckpt")
        runs = []
        for callbacks in ([], [WeightInitCallback(scheme, overwrite=True)]):
            model = Mlp(seed=5)
            trainer = quiet_trainer(callbacks=callbacks, max_epochs=2)
            trainer.fit(model, ckpt_path=tmp_path / "last.ckpt")
            runs.append(weights(model))
        assert same(*runs)
        report = callbacks[0].report_
        assert report.initialized == []
        assert set(report.left_alone.values()) == {"the run resumes from a checkpoint"}

    @pytest.mark.parametrize("overwrite", [False, True])
    @pytest.mark.parametrize("scheme", ["he", "auto"])
    @pytest.mark.parametrize("again", ["same trainer", "new trainer", "new callback"])
    def test_second_fit(self, scheme: str, again: str, overwrite: bool) -> None:
        model, callback = Mlp(), WeightInitCallback(scheme, overwrite=overwrite)
        trainer = fit(model, callback)
        trained = weights(model)
        model.lr = 0.0
        if again == "same trainer":
            trainer.fit_loop.max_epochs = 2
        else:
            callback = callback if again == "new trainer" else WeightInitCallback(scheme, overwrite=overwrite)
            trainer = quiet_trainer(callbacks=[callback])
        trainer.fit(model)
        assert same(weights(model), trained)
        assert callback.report_.initialized == []

    def test_loaded_before_the_fit(self) -> None:
        donor = Mlp(seed=3)
        model = Still()
        model.net[2].load_state_dict(donor.net[2].state_dict())
        loaded = weights(model.net[2])
        callback = WeightInitCallback("he")
        fit(model, callback)
        assert same(weights(model.net[2]), loaded)
        assert [row.name for row in callback.report_.initialized] == ["net.0.weight", "net.4.weight"]
        assert "overwrite=True" in callback.report_.left_alone["net.2.weight"]

    def test_trained_and_copied(self) -> None:
        fit(model := Mlp(lr=0.3))
        copied = pickle.loads(pickle.dumps(model.net))
        still = Still()
        still.net = copied
        trained = weights(still)
        fit(still, WeightInitCallback("he"))
        assert same(weights(still), trained)

    def test_set_by_hand_stays_unless_asked(self) -> None:
        for overwrite in (False, True):
            model = Still()
            nn.init.normal_(model.net[0].weight, std=0.02)
            before = weights(model)
            fit(model, WeightInitCallback("he", overwrite=overwrite))
            assert torch.equal(model.net[0].weight.detach(), before["net.0.weight"]) is not overwrite

    @pytest.mark.parametrize("scheme", ["he", "auto"])
    @pytest.mark.parametrize("how", ["constant", "copied constant", "small", "data", "loaded"])
    def test_a_bias_set_by_hand_stays_unless_asked(self, how: str, scheme: str) -> None:
        for overwrite in (False, True):
            model = Still()
            head = model.net[4]
            if how == "small":
                nn.init.normal_(head.bias, std=1e-3)
            elif how == "data":
                head.bias.data[1] = -4.6  # which torch does not count
            elif how == "loaded":
                head.bias.data = head.bias.data.clone()
                with torch.no_grad():
                    head.bias.copy_(torch.tensor([0.01, 0.02, 0.03]))
            else:
                nn.init.constant_(head.bias, -4.6 if how == "constant" else 0.01)
                if how == "copied constant":
                    model.net[4] = copy.deepcopy(head)
            before = model.net[4].bias.detach().clone()
            callback = WeightInitCallback(scheme, overwrite=overwrite)
            fit(model, callback)
            assert torch.equal(model.net[4].bias.detach(), torch.zeros(3) if overwrite else before)
            assert torch.equal(model.net[2].bias.detach(), torch.zeros(16))
            assert len(callback.report_.initialized) == 3
            assert callback.report_.initialized[2].bias == ("0" if overwrite else "")
            left = callback.report_.left_alone
            assert list(left) == ([] if overwrite else ["net.4.bias"])
            assert all("overwrite=True" in reason for reason in left.values())

    def test_a_bias_that_nobody_would_fill_is_not_reported(self) -> None:
        model = Still()
        nn.init.constant_(model.net[4].bias, -4.6)
        callback = WeightInitCallback("he", bias=None)
        fit(model, callback)
        assert callback.report_.left_alone == {}

    @pytest.mark.parametrize("value", [0.0, math.nan])
    def test_a_bias_of_nothing_is_filled(self, value: float) -> None:
        model = Still()
        nn.init.constant_(model.net[4].bias, value)
        fit(model, WeightInitCallback("he", bias=0.25))
        assert torch.equal(model.net[4].bias.detach(), torch.full((3,), 0.25))

    @pytest.mark.parametrize("value", [0.5, math.nan])
    def test_what_no_training_leaves_is_initialized(self, value: float) -> None:
        model = Still()
        nn.init.constant_(model.net[0].weight, value)
        fit(model, WeightInitCallback("he"))
        assert float(model.net[0].weight.std().detach()) > 0.3

    def test_learning_rate_finder_restores_and_the_fit_keeps(self) -> None:
        model, callback = Mlp(), WeightInitCallback("he", seed=1)
        trainer = quiet_trainer(callbacks=[callback], enable_checkpointing=True)
        Tuner(trainer).lr_find(model, num_training=3, update_attr=False)
        model.lr = 0.0
        trainer.fit(model)
        plain = Still()
        fit(plain, WeightInitCallback("he", seed=1))
        assert same(weights(model), weights(plain))

    @pytest.mark.parametrize("scheme", ["he", "auto"])
    def test_learning_rate_finder_as_a_callback(self, scheme: str) -> None:
        callback = WeightInitCallback(scheme, seed=1)
        fit(model := Still(), callback, LearningRateFinder(num_training_steps=3), enable_checkpointing=True)
        assert len(callback.report_.initialized) == 3
        fit(plain := Still(), WeightInitCallback(scheme, seed=1))
        assert same(weights(model), weights(plain))

    def test_learning_rate_finder_before_auto(self) -> None:
        model, callback = Still(), WeightInitCallback(seed=1)
        trainer = quiet_trainer(callbacks=[callback], enable_checkpointing=True)
        Tuner(trainer).lr_find(model, num_training=3, update_attr=False)
        trainer.fit(model)
        fit(plain := Still(), WeightInitCallback(seed=1))
        assert len(callback.report_.initialized) == 3
        assert same(weights(model), weights(plain))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
class TestSkippedBatches:
    class Skipping(Still):
        """Returns nothing for its first ``skipped`` batches."""

        def __init__(self, skipped: int, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.skipped = skipped

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx < self.skipped else super().training_step(batch, batch_idx)

    @pytest.mark.parametrize("skipped", [1, 2])
    def test_the_next_ones_are_tried(self, skipped: int) -> None:
        callback = WeightInitCallback(seed=1)
        fit(model := self.Skipping(skipped), callback)
        fit(plain := Still(), WeightInitCallback(seed=1))
        assert same(weights(model), weights(plain))
        assert not callback.report_.left_alone

    @pytest.mark.parametrize(
        ("skipped", "batches", "reason"),
        [
            (3, 8, "no loss in the first 3 training steps"),
            (8, 8, "no loss in the first 3 training steps"),
            (2, 2, "the run ended before a training step had a loss"),
        ],
    )
    def test_not_for_ever_and_the_reason_is_said(self, skipped: int, batches: int, reason: str) -> None:
        callback = WeightInitCallback(seed=1)
        trainer = fit(model := self.Skipping(skipped, batches=batches), callback)
        assert same(weights(model), weights(Still()))
        assert set(callback.report_.left_alone.values()) == {reason}
        (note,) = Desk.of(trainer).journal.notes
        assert note == f"weight initialization (seed 1): 0 weights initialized, 3 left alone: {reason}"

    def test_never_after_an_update(self) -> None:
        class Stepping(ManualGAN):
            def training_step(self, batch: Any, batch_idx: int) -> None:
                loss = self(batch[0]).square().mean()
                loss.backward()  # by the back door: not seen
                self.optimizers()[0].step()

        callback = WeightInitCallback()
        fit(Stepping(batches=4), callback)
        assert callback.report_.initialized == []
        reasons = callback.report_.left_alone
        trained = {name for name, reason in reasons.items() if reason == "trained before a training step had a loss"}
        assert trained == {"net.discriminator.0.weight", "net.discriminator.2.weight"}

    def test_what_was_seen_without_a_loss_counts_at_last(self) -> None:
        class Bodied(Still):
            def training_step(self, batch: Any, batch_idx: int) -> None:
                self(batch[0])

        callback = WeightInitCallback()
        fit(Bodied(), callback)
        assert len(callback.report_.initialized) == 3


class TestSeed:
    @pytest.mark.parametrize("scheme", ["he", "auto", nn.init.trunc_normal_])
    def test_seed_everything_decides(self, scheme: Any) -> None:
        runs = []
        for seed in (1, 1, 2):
            pl.seed_everything(seed, verbose=False)
            fit(model := Still(), WeightInitCallback(scheme))
            runs.append(weights(model))
        assert same(runs[0], runs[1])
        assert not same(runs[0], runs[2])

    @pytest.mark.parametrize("scheme", ["orthogonal", "auto", nn.init.trunc_normal_])
    def test_the_runs_own_random_numbers_stay(self, scheme: Any) -> None:
        states = []
        for callbacks in ([], [WeightInitCallback(scheme)]):
            pl.seed_everything(7, verbose=False)
            fit(DropoutNet(), *callbacks)
            states.append(torch.get_rng_state())
        assert torch.equal(*states)

    def test_a_layer_does_not_depend_on_its_neighbours(self) -> None:
        fit(model := Still(), WeightInitCallback("he", seed=3))
        fit(part := Still(), WeightInitCallback("he", seed=3, include="net.2"))
        assert torch.equal(model.net[2].weight, part.net[2].weight)
        assert not torch.equal(model.net[0].weight, part.net[0].weight)

    def test_numpy_and_python_are_seeded_for_a_function_and_put_back(self) -> None:
        import random

        import numpy as np

        def fill(weight: torch.Tensor) -> None:
            weight.fill_(random.random() + float(np.random.rand()))

        runs = []
        for _ in range(2):
            states = random.getstate(), np.random.get_state()[1].tolist()
            fit(model := Still(), WeightInitCallback(fill, seed=1))
            assert (random.getstate(), np.random.get_state()[1].tolist()) == states
            runs.append(weights(model))
            random.random()
        assert same(*runs)


class TestReport:
    def test_one_table(self, caplog: pytest.LogCaptureFixture) -> None:
        callback = WeightInitCallback(seed=5)
        with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
            trainer = fit(BNConvNet(batches=2), callback)
        tables = [record.message for record in caplog.records if "weight initialization" in record.message]
        assert tables == [str(callback.report_)]
        assert "net.0.weight  Conv2d  he, gain 1.41  relu" in tables[0]
        assert Desk.of(trainer).journal.notes == [callback.report_.headline()]
        assert callback.report_.headline() == (
            "weight initialization (seed 5): 3 weights initialized (he 2, lecun 1), 0 left alone"
        )

    def test_the_main_reason_is_said_if_nothing_was_done(self) -> None:
        model = Still()
        for layer in (model.net[0], model.net[2]):
            nn.init.normal_(layer.weight)
        callback = WeightInitCallback("he", seed=5, exclude="net.4")
        fit(model, callback)
        assert callback.report_.headline() == (
            "weight initialization (seed 5): 0 weights initialized, 3 left alone: 2 of them set since its layer was "
            "built, by hand or from a file (`overwrite=True` initializes it too)"
        )

    @pytest.mark.parametrize("before", [True, False])
    def test_a_resumed_run_has_one_note(self, before: bool, tmp_path: Any) -> None:
        first = fit(Mlp(), *([WeightInitCallback("he", seed=5)] if before else []))
        first.save_checkpoint(tmp_path / "last.ckpt")
        trainer = quiet_trainer(callbacks=[WeightInitCallback("he", seed=5)], max_epochs=2)
        trainer.fit(Mlp(), ckpt_path=tmp_path / "last.ckpt")
        (note,) = [note for note in Desk.of(trainer).journal.notes if "weight initialization" in note]
        done = "3 weights initialized (he 3), 0 left alone"
        nothing = "0 weights initialized, 3 left alone: the run resumes from a checkpoint"
        assert note == f"weight initialization (seed 5): {done if before else nothing}"

    def test_a_long_one_is_cut(self) -> None:
        class Deep(Still):
            def build(self) -> nn.Module:
                return nn.Sequential(*(nn.Linear(8, 8) for _ in range(80)))

        callback = WeightInitCallback("he", exclude="net.?")
        fit(Deep(batches=1), callback)
        text = str(callback.report_)
        assert "and 10 more" in text
        assert "left alone, excluded: net.0.weight, net.1.weight" in text
        assert "net.5.weight and 4 more" in text
        assert len(callback.report_.initialized) == 70

    @pytest.mark.parametrize("kind", MODEL_KINDS)
    def test_every_matrix_is_accounted_for(self, kind: type[TinyModule]) -> None:
        callback = WeightInitCallback()
        model = kind(batches=2)
        fit(model, callback)
        named = {row.name for row in callback.report_.initialized} | set(callback.report_.left_alone)
        assert named == {name for name, p in model.named_parameters() if p.dim() > 1}

    def test_silent_otherwise(self, capfd: pytest.CaptureFixture[str]) -> None:
        fit(Mlp(batches=1), WeightInitCallback("he"))
        assert "Linear" not in "".join(capfd.readouterr())


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"scheme": "kaimin"}, "'kaimin'"),
            ({"scheme": "Xavier"}, "Did you mean 'xavier'?"),
            ({"scheme": "ortogonal"}, "Did you mean 'orthogonal'?"),
            ({"scheme": 3}, "got 3"),
            ({"scheme": None}, "got None"),
            ({"scheme": {}}, "empty dict"),
            ({"scheme": {nn.Linear: "hee"}}, "Did you mean 'he'?"),
            ({"scheme": {3: "he"}}, "got 3"),
            ({"scheme": {int: "he"}}, "int"),
            ({"distribution": "gauss"}, "'gauss'"),
            ({"bias": "zero"}, "`bias`"),
            ({"forget_bias": True}, "`forget_bias`"),
            ({"seed": 1.5}, "`seed`"),
            ({"include": [nn.Linear]}, "`include`"),
            ({"exclude": [3]}, "`exclude`"),
        ],
    )
    def test_bad_ones_are_named(self, arguments: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError) as error:  # noqa: PT011  # the text is looked at below
            WeightInitCallback(**arguments)
        assert said in str(error.value)

    @pytest.mark.parametrize(
        "arguments", [{"scheme": {"backbonne": "he"}}, {"include": "backbonne"}, {"exclude": ["net.0", "backbonne"]}]
    )
    def test_a_pattern_that_matches_nothing(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(MisconfigurationException, match="'backbonne', which matches no parameter"):
            fit(Still(), WeightInitCallback(**arguments))

    def test_auto_refuses_strategies_that_shard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Sharding(SingleDeviceStrategy):
            """Shards nothing; FSDPStrategy refuses to be made without accelerators."""

        callback = WeightInitCallback({"*": "auto"})
        trainer = quiet_trainer(accelerator="auto", strategy=Sharding("cpu"))
        monkeypatch.setattr(weight_init, "FSDPStrategy", Sharding)
        with pytest.raises(MisconfigurationException, match="Sharding shards"):
            callback.setup(trainer, Still(), "fit")

    @pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor:UserWarning")
    @pytest.mark.filterwarnings("ignore:Found `dataloader_iter` argument:UserWarning")
    def test_auto_refuses_steps_that_cannot_be_repeated(self) -> None:
        class Iterating(Still):
            def training_step(self, dataloader_iter: Any) -> torch.Tensor:
                (x, _), _, _ = next(dataloader_iter)
                return self(x).square().mean()

        with pytest.raises(MisconfigurationException, match="dataloader_iter"):
            fit(Iterating(), WeightInitCallback())
        fit(Iterating(), WeightInitCallback("he"))

    def test_lazy_modules_are_refused_until_they_have_weights(self) -> None:
        class Lazy(Still):
            def build(self) -> nn.Module:
                return nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 3))

        for scheme in ("he", "auto"):
            with pytest.raises(MisconfigurationException, match=r"'net\.0\.weight': a lazy module"):
                fit(Lazy(), WeightInitCallback(scheme))
        model, callback = Lazy(), WeightInitCallback()
        model(torch.zeros(2, 8))
        fit(model, callback)
        assert [row.scheme for row in callback.report_.initialized] == ["he", "lecun"]

    def test_meta_weights_are_refused(self) -> None:
        class Meta(Still):
            def build(self) -> nn.Module:
                return nn.Linear(8, 3, device="meta")

        callback, trainer, model = WeightInitCallback("he"), quiet_trainer(), Meta()
        callback.setup(trainer, model, "fit")
        with pytest.raises(MisconfigurationException, match="on meta"):
            model.configure_model()


@pytest.mark.parametrize("run", [{"fast_dev_run": True}, {"overfit_batches": 2}, {"accumulate_grad_batches": 3}])
@pytest.mark.parametrize("scheme", ["he", "auto"])
def test_kinds_of_runs(run: dict[str, Any], scheme: str) -> None:
    callback = WeightInitCallback(scheme)
    fit(LSTMNet(), callback, **run)
    assert len(callback.report_.initialized) == 3


def test_half_precision_and_float64() -> None:
    for precision, dtype in (("bf16-true", torch.bfloat16), ("64-true", torch.float64), ("bf16-mixed", torch.float32)):
        model, callback = Wide(), WeightInitCallback()
        fit(model, callback, precision=precision)
        assert model.net[2].weight.dtype == dtype
        assert callback.report_.initialized[1].std_after == pytest.approx(5 / 3 * math.sqrt(2 / 1024), rel=0.02)


def test_pickles() -> None:
    callback = pickle.loads(pickle.dumps(WeightInitCallback({nn.Linear: "he", "*": nn.init.zeros_})))
    fit(Still(), callback)
    pickle.dumps(callback)


def test_a_function_by_its_import_path_is_that_function() -> None:
    by_name, itself = (
        WeightInitCallback({"Linear": "torch.nn.init.zeros_"}),
        WeightInitCallback({"Linear": torch.nn.init.zeros_}),
    )
    assert by_name.options.selection == itself.options.selection
    with pytest.raises(ValueError, match=r"'torch\.nn\.init\.zeroes_' cannot be imported"):
        WeightInitCallback("torch.nn.init.zeroes_")
    with pytest.raises(ValueError, match=r"`scheme` must be one of .*got 'torch\.pi'"):
        WeightInitCallback("torch.pi")
