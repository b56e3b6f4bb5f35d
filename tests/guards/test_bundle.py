"""Bundles of real runs, read back, and repeated by a module that was built anew: the same verdict."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.amp import GradScaler

from lightning_tuning import Journal, NanLossGuard, TuningError
from lightning_tuning.guards.bundle import (
    Bundle,
    BundleError,
    Repetition,
    read_bundle,
    recorded_settings,
    repeat_bundle,
)
from lightning_tuning.guards.bundle._folder import MANIFEST, _seal
from tests.guards import bundle_nets as nets
from tests.guards.faulty import FaultyBN, FaultyMlp, everything, same
from tests.helpers import Mlp, quiet_trainer

HERE = Path("bundles")

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.findings.TuningWarning")


def bundle_of(model: pl.LightningModule, guard: NanLossGuard | None = None, **settings: Any) -> Bundle:
    """The one bundle of a run that ends with a finding."""
    with pytest.raises(TuningError):
        quiet_trainer(callbacks=[guard or NanLossGuard(bundle_dir=HERE)], **settings).fit(model)
    (path,) = HERE.iterdir()
    return read_bundle(path)


def again(bundle: Bundle, model: pl.LightningModule, **arguments: Any) -> Repetition:
    """Repeated with the random numbers and settings of another process."""
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(99)
    with recorded_settings(bundle):
        return repeat_bundle(bundle, model, **arguments)


def float16() -> dict[str, Any]:
    return {"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=8.0))]}


RUNS: dict[str, tuple[Any, dict[str, Any], str]] = {
    # builds the model, settings of the trainer, cause
    "sample": (lambda: FaultyBN({2: "sample"}), {}, "bad-sample"),
    "log": (lambda: FaultyBN({2: "log"}), {}, "log-of-zero"),
    "constant": (lambda: FaultyMlp({2: "nan"}), {}, "constant"),
    "gradient": (lambda: FaultyBN({2: "gradient"}), {}, "norm-at-zero"),
    "gradient of a parameter": (nets.Gradient, {}, "norm-at-zero"),
    "window": (nets.Tied, {"accumulate_grad_batches": 4}, "log-of-zero"),
    "dict": (nets.DictBatch, {}, "log-of-zero"),
    "random numbers": (nets.RandomNumbers, {}, "log-of-zero"),
    "dropout": (lambda: nets.Dropped(batches=60), {}, "division-by-zero"),
    "statistics": (nets.Statistics, {}, "division-by-zero"),
    "tied": (nets.Tied, {}, "log-of-zero"),
    "bf16-mixed": (nets.Rounded, {"precision": "bf16-mixed"}, "log-of-zero"),
    "float16": (nets.Overflowing, float16, "half-overflow"),
    "bf16-true": (nets.Tied, {"precision": "bf16-true"}, "log-of-zero"),
    "64-true": (nets.Tied, {"precision": "64-true"}, "log-of-zero"),
    "modes": (nets.Modes, {}, "log-of-zero"),
    "clock": (nets.Clock, {"max_epochs": 3}, "log-of-zero"),
    "moving": (nets.Moving, {}, "log-of-zero"),
    "lazy": (nets.LazyNet, {}, "log-of-zero"),
    "configured": (nets.Configured, {}, "log-of-zero"),
    "manual": (nets.UnluckyGAN, {}, "log-of-zero"),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_verdict_is_reproduced(name: str) -> None:
    build, settings, cause = RUNS[name]
    bundle = bundle_of(build(), **(settings() if callable(settings) else settings))
    assert bundle.origin is not None
    assert bundle.origin.cause == cause
    repetition = again(bundle, build())
    assert repetition.obstacle == ""
    assert repetition.now == bundle.origin or (
        repetition.now is not None and repetition.now.to_dict() == bundle.origin.to_dict()
    )
    assert repetition.same
    assert repetition.notes == (("not kept: batch['f']: a builtin_function_or_method was left out",) * (name == "dict"))


@pytest.mark.parametrize(
    "name", ["random numbers", "dropout", "statistics", "bf16-mixed", "float16", "modes", "moving"]
)
def test_what_is_brought_along_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these runs is bad for a reason outside weights and batch: without it the step is finite."""
    build, settings, _ = RUNS[name]
    bundle = bundle_of(build(), **(settings() if callable(settings) else settings))
    run = {**bundle.run}
    without = {
        "random numbers": {"rng": None},
        "dropout": {"rng": None},
        "statistics": {"buffers": {key: torch.zeros_like(value) for key, value in bundle.buffers.items()}},
        "bf16-mixed": {"run": {**run, "precision": "32-true"}},
        "float16": {"run": {**run, "precision": "32-true"}},
        "modes": {"run": {**run, "eval": []}},
        "moving": {"attributes": {}},
    }[name]
    poorer = Bundle(**{**vars(bundle), **without})
    assert again(poorer, build()).finite


# -- what is in it ----------------------------------------------------------------------------------------------------


def test_parameters_and_buffers_are_those_of_the_batchs_start() -> None:
    bundle = bundle_of(FaultyBN({3: "sample"}, batches=6))
    before = FaultyBN(batches=6)
    quiet_trainer(max_steps=3).fit(before)
    assert same(bundle.parameters, dict(before.named_parameters()))
    assert same(bundle.buffers, dict(before.named_buffers()))
    assert torch.isfinite(bundle.buffers["net.1.running_mean"]).all()
    assert same(bundle.optimizers, [optimizer.state_dict() for optimizer in before.trainer.optimizers])
    assert bundle.batch()[0].isnan().sum() == 1
    assert (bundle.batch()[2], bundle.batch_idx) == (3, 3)
    assert bundle.gradients == {}


def test_tied_weights_are_written_once_and_still_tied() -> None:
    bundle = bundle_of(nets.Tied())
    assert bundle.parameters["net.2.weight"] is bundle.parameters["net.0.weight"]
    model = nets.Tied()
    again(bundle, model)
    assert model.net[2].weight is model.net[0].weight
    assert torch.equal(model.net[0].weight, bundle.parameters["net.0.weight"])


def test_every_dtype_and_shape_survives() -> None:
    class Odd(FaultyMlp):
        def __init__(self) -> None:
            super().__init__({1: "log"})
            flat = torch.arange(12.0)
            self.kinds = nn.ParameterList(
                [
                    torch.ones(2, 3, dtype=torch.bfloat16),
                    torch.ones(3, dtype=torch.complex128),
                    nn.Parameter(torch.ones(2, dtype=torch.float64)),
                    nn.Parameter(flat[:4]),
                    nn.Parameter(flat[2:8].view(2, 3).t()),
                    nn.Parameter(torch.zeros(())),
                    nn.Parameter(torch.zeros(0, 4)),
                    nn.Parameter(torch.ones(2, 2, 4, 4).to(memory_format=torch.channels_last)),
                ]
            )
            self.register_buffer("mask", torch.tensor([True, False]))
            self.register_buffer("counts", torch.tensor([1, 2], dtype=torch.int16))
            self.register_buffer("sparse", torch.eye(3).to_sparse())
            self.register_buffer("eighth", torch.ones(2).to(torch.float8_e4m3fn))
            self.register_buffer("none", None)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    model = Odd()
    want = everything(model, [])["module"]
    bundle = bundle_of(model, max_steps=2)
    got = {**bundle.parameters, **bundle.buffers}
    assert {key: (t.dtype, t.shape, t.layout) for key, t in got.items()} == {
        key: (t.dtype, t.shape, t.layout) for key, t in want.items()
    }
    fresh = Odd()
    with torch.no_grad():
        for parameter in fresh.kinds:
            parameter.zero_()
    assert again(bundle, fresh).same
    for key, tensor in want.items():
        if key.startswith(("kinds", "mask", "counts", "sparse", "eighth")):
            one, other = (t.to_dense().cdouble() for t in (fresh.state_dict()[key], tensor))
            assert torch.equal(one, other), key


def test_gradients_of_a_window_are_kept_as_they_stood() -> None:
    bundle = bundle_of(FaultyMlp({2: "sample"}), accumulate_grad_batches=4)
    assert set(bundle.gradients) == set(bundle.parameters)
    assert bundle.gradients["net.0.weight"].isnan().all()
    assert bundle.run["accumulate_grad_batches"] == 4


def test_the_files_can_be_read_without_this_library() -> None:
    from safetensors.torch import load_file

    bundle = bundle_of(FaultyMlp({1: "log"}))
    assert load_file(bundle.path / "model.safetensors").keys() == dict(Mlp().named_parameters()).keys()
    x, y, number = torch.load(bundle.path / "batch.pt", weights_only=True)
    assert (x.shape, y.dtype, number) == ((16, 8), torch.int64, 1)
    for name in ("rng.pt", "optimizers.pt", "module.pt"):
        assert isinstance(torch.load(bundle.path / name, weights_only=True), dict)
    finding = json.loads((bundle.path / "finding.json").read_text())["finding"]
    assert (finding["code"], finding["step"], finding["epoch"]) == ("LT701", 1, 0)
    run = json.loads((bundle.path / "run.json").read_text())
    assert run["module"] == "tests.guards.faulty:FaultyMlp"
    assert run["versions"]["torch"] == torch.__version__


def test_the_report_is_for_people() -> None:
    bundle = bundle_of(nets.DictBatch(), NanLossGuard(bundle_dir=HERE))
    report = (bundle.path / "report.txt").read_text()
    for line in (
        "LT701 non-finite-loss",
        "when        step 0, epoch 0, batch 0",
        "cause       log-of-zero: log of 0.0",
        "batch['samples'].x: float32 [16, 8], ",
        "not kept    batch['f']: a builtin_function_or_method was left out",
        "optimizer   SGD, lr 0.1",
        "lightning-tuning replay THIS_FOLDER tests.guards.bundle_nets:DictBatch",
    ):
        assert line in report
    assert all(len(line) == len(line.rstrip()) for line in report.splitlines())


def test_a_script_is_named_as_the_command_line_can_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FaultyMlp({1: "log"})
    monkeypatch.setattr(type(model), "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/somewhere/train.py", raising=False)
    assert bundle_of(model).run["module"] == "train:FaultyMlp"


def test_hyperparameters_come_along_if_they_are_plain() -> None:
    class Net(nets.Moving):
        def __init__(self, eps: float, sizes: Any, act: Any) -> None:
            super().__init__(eps)
            self.save_hyperparameters(ignore=[])

    with pytest.warns(UserWarning, match="is an instance of `nn.Module`"):
        model = Net(0.0, (1, [2]), nn.ReLU())
    bundle = bundle_of(model)
    assert bundle.hparams == {"eps": 0.0, "sizes": (1, [2]), "act": None}
    assert any("hparams['act']: a ReLU was left out" in line for line in bundle.run["not_kept"])


def test_settings_are_not_put_back_where_the_run_did_not_move_them() -> None:
    bundle = bundle_of(nets.Moving())
    assert bundle.attributes[""].keys() == {"beta", "state"}
    repetition = again(bundle, nets.Moving(eps=1e-6))
    assert repetition.finite
    assert not repetition.same


# -- the run goes on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_writing_changes_nothing(settings: dict[str, Any]) -> None:
    ends = []
    for arguments in ({}, {"bundle_dir": HERE, "max_bundles": 1}):
        torch.manual_seed(7)
        model = FaultyBN({1: "log", 4: "sample"}, batches=8)
        trainer = quiet_trainer(callbacks=[NanLossGuard("skip", **arguments)], max_epochs=2, **settings)
        trainer.fit(model)
        ends.append([everything(model, trainer.optimizers), torch.get_rng_state(), dict(trainer.callback_metrics)])
    assert same(*ends)
    assert len(list(HERE.iterdir())) == 1


def test_no_more_than_max_bundles_and_none_removed() -> None:
    faults = dict.fromkeys((1, 3, 5, 6), "log")
    for runs in (1, 2):
        trainer = quiet_trainer(callbacks=[NanLossGuard("skip", bundle_dir=HERE, max_bundles=2)])
        trainer.fit(FaultyMlp(faults))
        assert len(list(HERE.iterdir())) == 2 * runs
        names = [f"step-{step:08d}-LT701-log-of-zero{'.2' * (runs - 1)}" for step in (1, 3)]
        assert Journal.of(trainer).notes[-2:] == [
            f"NanLossGuard wrote 2 bundles into bundles: {', '.join(names)}",
            "NanLossGuard wrote none of 2 more (`max_bundles=2`)",
        ]
    assert all(read_bundle(path) for path in HERE.iterdir())


def test_the_finding_says_how_to_repeat_it() -> None:
    with pytest.raises(
        TuningError, match="`lightning-tuning replay bundles/step-00000001-LT701-log-of-zero` repeats it"
    ):
        quiet_trainer(callbacks=[NanLossGuard(bundle_dir=HERE)]).fit(FaultyMlp({1: "log"}))


def test_the_bound_outlives_a_resume() -> None:
    trainer = quiet_trainer(callbacks=[NanLossGuard("skip", bundle_dir=HERE, max_bundles=2)])
    trainer.fit(FaultyMlp({1: "log"}))
    trainer.save_checkpoint("here.ckpt")
    resumed = quiet_trainer(callbacks=[NanLossGuard("skip", bundle_dir=HERE, max_bundles=2)], max_epochs=3)
    resumed.fit(FaultyMlp({1: "log"}), ckpt_path="here.ckpt", weights_only=True)
    assert sorted(read_bundle(path).run["epoch"] for path in HERE.iterdir()) == [0, 1]


@pytest.mark.parametrize("replay", [True, False])
def test_bundles_beyond_the_replays_have_their_random_numbers(replay: bool) -> None:
    guard = NanLossGuard("skip", bundle_dir=HERE, max_bundles=5, replay=replay)
    quiet_trainer(callbacks=[guard]).fit(FaultyMlp(dict.fromkeys(range(1, 7), "log")))
    bundles = [read_bundle(path) for path in sorted(HERE.iterdir())]
    assert len(bundles) == 5
    assert all(bundle.rng is not None for bundle in bundles)
    assert [bundle.origin is not None for bundle in bundles] == [replay, replay, replay, False, False]
    repetition = again(bundles[-1], FaultyMlp({5: "log"}))
    assert repetition.recorded is None
    assert repetition.now is not None
    assert repetition.now.cause == "log-of-zero"
    assert repetition.same


def test_an_unwritable_folder_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    HERE.write_text("a file")
    trainer = quiet_trainer(callbacks=[NanLossGuard("skip", bundle_dir=HERE / "in")])
    trainer.fit(FaultyMlp({1: "log"}))
    assert trainer.global_step == 8
    (finding,) = Journal.of(trainer).findings
    assert "; no bundle was written: NotADirectoryError" in finding.message
    assert any("could not write a bundle: NotADirectoryError" in note for note in Journal.of(trainer).notes)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda value, file: save(value, "/dev/full"))
    trainer = quiet_trainer(callbacks=[NanLossGuard("skip", bundle_dir=HERE)])
    trainer.fit(FaultyMlp(dict.fromkeys(range(1, 6), "log")))
    assert trainer.global_step == 8
    assert list(HERE.iterdir()) == []
    assert any("could not write a bundle" in note for note in Journal.of(trainer).notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bundle_dir": 3}, "`bundle_dir` must be the path of a folder or None, got 3"),
        ({"bundle_dir": ""}, "`bundle_dir` must be the path of a folder or None, got ''"),
        ({"bundle_dir": "x", "max_bundles": 0}, "`max_bundles` must be an integer of at least 1, got 0"),
        ({"max_bundles": True}, "`max_bundles` must be an integer of at least 1, got True"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NanLossGuard(**arguments)


# -- repeated elsewhere -----------------------------------------------------------------------------------------------


def edited(bundle: Bundle, **facts: Any) -> Bundle:
    """The bundle with other facts of the run, as if it had been written there."""
    file = bundle.path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))
    (bundle.path / MANIFEST).unlink()
    _seal(bundle.path)
    return read_bundle(bundle.path)


def test_a_bundle_of_a_gpu_is_repeated_on_a_cpu() -> None:
    facts = {"device": "cuda:3", "device_name": "H200", "autocast_device": "cuda", "precision": "16-mixed"}
    facts |= {"precision_plugin": "MixedPrecision", "scale": 65536.0, "strategy": "DDPStrategy", "world_size": 8}
    bundle = edited(bundle_of(nets.Overflowing(), **float16()), **facts)
    repetition = again(bundle, nets.Overflowing())
    assert repetition.same
    assert repetition.notes == ("random numbers that were drawn on cuda (dropout) are others here",)


def test_a_precision_that_is_not_here_is_said() -> None:
    facts = {"precision": "transformer-engine", "precision_plugin": "TransformerEnginePrecision"}
    repetition = again(edited(bundle_of(nets.Tied()), **facts), nets.Tied())
    assert repetition.same
    assert any("transformer-engine is not to be had here" in note for note in repetition.notes)


def test_a_step_that_was_mended_is_finite_now() -> None:
    repetition = again(bundle_of(FaultyMlp({2: "log"})), FaultyMlp())
    assert repetition.finite
    assert not repetition.same
    assert repetition.now is not None
    assert repetition.now.cause == "not-reproduced"


def test_another_cause_is_not_the_same() -> None:
    repetition = again(bundle_of(FaultyMlp({2: "log"})), FaultyMlp({2: "nan"}))
    assert not repetition.finite
    assert not repetition.same


def test_the_same_cause_in_another_operation_is_not_the_same() -> None:
    bundle = bundle_of(nets.Lines(lambda loss: (loss * 0).log()))
    assert again(bundle, nets.Lines(lambda loss: (loss * 0).log())).same
    assert not again(bundle, nets.Lines(lambda loss: (loss * 0).log2())).same


def test_another_module_is_refused_by_the_names_of_what_differs() -> None:
    class Renamed(FaultyMlp):
        def build(self) -> nn.Module:
            net = super().build()
            return nn.Sequential(*net, nn.Linear(3, 3))

    bundle = bundle_of(FaultyMlp({2: "log"}))
    with pytest.raises(BundleError, match=r"unexpected: net\.5\.weight, net\.5\.bias\.$"):
        again(bundle, Renamed({2: "log"}))
    repetition = again(bundle, Renamed({2: "log"}), partial=True)
    assert repetition.same
    assert "the module is not the recorded one: unexpected: net.5.weight, net.5.bias" in repetition.notes

    class Wider(FaultyMlp):
        def build(self) -> nn.Module:
            return nn.Sequential(nn.Linear(8, 3))

    with pytest.raises(BundleError, match=r"missing: net\.2\.bias.*of another shape: net\.0\.weight \[3, 8\] \(recor"):
        again(bundle, Wider({2: "log"}))


def test_buffers_that_no_checkpoint_has_may_come_and_go() -> None:
    class Caching(FaultyMlp):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor | None:
            if not hasattr(self, "cache"):
                self.register_buffer("cache", torch.ones(2), persistent=False)
            return super().training_step(batch, batch_idx)

    assert again(bundle_of(Caching({2: "log"})), Caching({2: "log"})).same


def test_a_setup_that_fails_elsewhere_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_of(nets.Configured())
    monkeypatch.setattr(nets.Configured, "reachable", False)
    repetition = again(bundle, nets.Configured())
    assert repetition.same
    assert repetition.notes == ("setup('fit') of the module raised FileNotFoundError: no data here",)


def test_a_step_that_raises_elsewhere_is_an_obstacle() -> None:
    class Raises(FaultyMlp):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise RuntimeError("no")

    repetition = again(bundle_of(FaultyMlp({2: "log"})), Raises())
    assert repetition.now is None
    assert "RuntimeError: no" in repetition.obstacle
    assert not repetition.same
    assert not repetition.finite


def test_the_settings_of_torch_are_as_before() -> None:
    bundle = edited(bundle_of(FaultyMlp({2: "log"})), default_dtype="float64", matmul_precision="medium")
    with recorded_settings(bundle):
        assert torch.zeros(1).dtype is torch.float64
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.zeros(1).dtype is torch.float32
    assert torch.get_float32_matmul_precision() == "highest"
