"""A run with steps repeated aside goes on, bit for bit, as the run without."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassPrecision, MulticlassRecall

from lightning_tuning.trace.aside import CannotReplay, aside, is_aside, replay
from lightning_tuning.trace.recorder import Recorder
from lightning_tuning.trace.rng import RngState
from tests.helpers import (
    CLASSES,
    BNConvNet,
    DropoutNet,
    LSTMNet,
    ManualGAN,
    Mlp,
    TinyModule,
    TransformerNet,
    quiet_trainer,
)


class SpectralNet(TinyModule):
    def build(self) -> nn.Module:
        old = nn.utils.spectral_norm(nn.Linear(16, 16))  # keeps its weight as a plain attribute with a history
        new = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 16))
        return nn.Sequential(new, nn.ReLU(), old, nn.ReLU(), nn.Linear(16, CLASSES))


class MetricNet(DropoutNet):
    """Metrics of every make: logged as objects, in a collection with groups, with list states, in a plain dict."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.accuracy = MulticlassAccuracy(CLASSES)
        self.curve = MulticlassAccuracy(CLASSES, multidim_average="samplewise")
        self.collection = MetricCollection([MulticlassPrecision(CLASSES), MulticlassRecall(CLASSES)])
        self.loose = {"loss": MeanMetric()}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self.accuracy(logits, y)
        self.curve.update(logits[..., None], y[..., None])
        self.loose["loss"].update(loss.detach())
        self.collection.update(logits, y)
        self.log("acc", self.accuracy, on_step=True, on_epoch=True)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log_dict({f"now_{name}": value for name, value in self.collection.compute().items()})
        return {"loss": loss, "logits": logits.detach()}

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.collection.compute())
        self.log("loose", self.loose["loss"].compute())
        self.log("curve", self.curve.compute().mean())
        self.collection.reset()
        self.curve.reset()


class DiaryNet(DropoutNet):
    """A step that writes into everything a module may hold."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = 0
        self.total = torch.zeros(())
        self.losses: list[Tensor] = []
        self.recent = deque(maxlen=3)
        self.seen = Counter()
        self.nested = {"a": [torch.zeros(2)], "order": OrderedDict(x=1)}
        self.hidden = (torch.zeros(3), torch.zeros(3))
        self.labels = {0}
        self.noise = torch.Generator().manual_seed(3)
        self.numpy_noise = np.random.default_rng(4)
        self.teacher = nn.Linear(8, 4).requires_grad_(False)
        self.net[2].calls = 0
        self.save_hyperparameters({"temperature": 1.0})

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        self.net[2].calls += 1
        self.steps += 1
        self.hparams["temperature"] *= 0.99
        x = x + 0.01 * torch.randn(x.shape, generator=self.noise) + float(self.numpy_noise.normal(0, 0.01))
        loss = F.cross_entropy(self(x) / self.hparams["temperature"], y) * (1 + 0.01 * np.random.rand())
        with torch.no_grad():  # a momentum teacher
            self.teacher.weight.mul_(0.99).add_(loss.detach(), alpha=0.01)
        self.total += loss.detach()
        self.losses.append(loss.detach())
        self.recent.append(loss.item())
        self.seen.update(y.tolist())
        self.nested["a"][0] += 1
        self.nested["order"][str(self.steps)] = self.nested["order"].pop("x", 0)
        self.hidden = (self.hidden[0] + 1, self.hidden[1].add_(1))
        self.labels.add(self.steps)
        if self.steps == 5:
            self.late = torch.ones(1)
        self.log("diary", loss + self.total)
        return loss

    def diary(self) -> dict[str, Any]:
        names = ("steps", "total", "losses", "recent", "seen", "nested", "hidden", "labels", "late")
        found = {name: copy.deepcopy(getattr(self, name)) for name in names}
        return {
            **found,
            "calls": self.net[2].calls,
            "teacher": self.teacher.weight.clone(),
            "hparams": dict(self.hparams),
        }


class CompiledNet(DropoutNet):
    """Compiled by the backend "eager": what is compared is the guarding and the dispatch, in little time."""

    def build(self) -> nn.Module:
        return torch.compile(super().build(), backend="eager")


class ToggledGAN(ManualGAN):
    """Toggled optimizers, a closure, schedulers and a learning rate set by hand."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, _ = batch
        optimizer_d, optimizer_g = self.optimizers()
        schedulers = self.lr_schedulers()
        with optimizer_d.toggle_model():
            fake = self.net["generator"](torch.randn(len(x), self.latent))
            loss_d = F.softplus(-self(x)).mean() + F.softplus(self(fake)).mean()
            optimizer_d.zero_grad()
            self.manual_backward(loss_d)
            self.clip_gradients(optimizer_d, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
            optimizer_d.step()
        for parameter in self.net["discriminator"].parameters():
            parameter.data.clamp_(-0.3, 0.3)

        def closure() -> Tensor:
            loss = F.softplus(-self(self.net["generator"](torch.randn(len(x), self.latent)))).mean()
            optimizer_g.zero_grad()
            self.manual_backward(loss)
            return loss

        self.toggle_optimizer(optimizer_g)
        optimizer_g.step(closure=closure)
        self.untoggle_optimizer(optimizer_g)
        for group in optimizer_g.param_groups:
            group["lr"] *= 0.98
        schedulers.step()
        self.log("loss_d", loss_d, on_step=True, on_epoch=True)

    def configure_optimizers(self) -> Any:
        discriminator, generator = super().configure_optimizers()
        return [discriminator, generator], [torch.optim.lr_scheduler.StepLR(discriminator, 2)]


class Repeater(pl.Callback):
    """Repeats every third step aside, in three places of the step, once with a backward pass and once without."""

    def __init__(self, hooks: tuple[str, ...]) -> None:
        self.hooks, self.count = hooks, 0

    def again(self, hook: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if hook not in self.hooks or is_aside() or self.batch_idx % 3:
            return
        for backward in (False, True):
            self.count += 1
            losses = replay(trainer, pl_module, self.batch, self.batch_idx, backward=backward)
            assert losses
            assert all(loss.requires_grad for loss in losses)  # also amid a toggled optimizer

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.batch, self.batch_idx = batch, batch_idx
        self.again("start", trainer, pl_module)

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        self.again("before_backward", trainer, pl_module)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.again("before_step", trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.again("end", trainer, pl_module)


HOOKS = ("start", "before_backward", "before_step", "end")


def fit(make: Any, settings: dict[str, Any], *callbacks: pl.Callback) -> dict[str, Any]:
    torch._dynamo.reset() if make is CompiledNet else None
    pl.seed_everything(7, verbose=False)
    model = make()
    trainer = quiet_trainer(max_epochs=2, callbacks=list(callbacks), **settings)
    trainer.fit(model)
    return {
        "weights": dict(model.state_dict()),
        "gradients": [parameter.grad for parameter in model.parameters()],
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "metrics": dict(trainer.callback_metrics),
        "logged": dict(trainer.logged_metrics),
        "rng": RngState.capture().state_dict(),
        "diary": model.diary() if isinstance(model, DiaryNet) else {},
        "flags": [(module.training, *(p.requires_grad for p in module.parameters())) for module in model.modules()],
        "attributes": [sorted(module.__dict__) for module in model.modules()],
        "progress": (trainer.global_step, trainer.fit_loop.epoch_loop.state_dict()),
    }


def assert_identical(first: Any, second: Any, path: str = "run") -> None:
    assert type(first) is type(second), path
    if isinstance(first, Tensor):
        assert first.dtype == second.dtype, path
        assert torch.equal(first.nan_to_num(), second.nan_to_num()), path
    elif isinstance(first, dict):
        assert list(first) == list(second), path
        for key in first:
            assert_identical(first[key], second[key], f"{path}[{key!r}]")
    elif isinstance(first, list | tuple | deque):
        assert len(first) == len(second), path
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_identical(one, other, f"{path}[{index}]")
    else:
        assert first == second, path


CASES = {
    "mlp": (Mlp, {}),
    "bn-cnn": (BNConvNet, {}),
    "dropout": (DropoutNet, {}),
    "lstm": (LSTMNet, {}),
    "transformer": (TransformerNet, {}),
    "gan": (ManualGAN, {}),
    "toggled gan": (ToggledGAN, {}),
    "spectral norm": (SpectralNet, {}),
    "metrics": (MetricNet, {}),
    "diary": (DiaryNet, {}),
    "bf16-mixed": (TransformerNet, {"precision": "bf16-mixed"}),
    "bf16-mixed gan": (ManualGAN, {"precision": "bf16-mixed"}),
    "bf16-true": (DropoutNet, {"precision": "bf16-true"}),
    "accumulation": (MetricNet, {"accumulate_grad_batches": 3}),
    "clipping": (BNConvNet, {"gradient_clip_val": 0.1}),
    "compiled": (CompiledNet, {}),
    # In one process; the reducer listens all the same. (Validation asks for `sync_dist` there.)
    "ddp": (BNConvNet, {"strategy": "ddp", "limit_val_batches": 0}),
    "ddp gan": (ManualGAN, {"strategy": "ddp_find_unused_parameters_true", "limit_val_batches": 0}),
}


@pytest.fixture(autouse=True)
def _no_process_group_is_left() -> Iterator[None]:
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("case", CASES)
def test_run_goes_on_bit_identically(case):
    make, settings = CASES[case]
    plain = fit(make, settings)
    repeater = Repeater(HOOKS)
    assert_identical(plain, fit(make, settings, repeater))
    assert repeater.count >= 2 * 3 * 2 * 2  # (forward and backward) x steps 0, 3, 6 x epochs x at least two hooks


class StepWatch(pl.Callback):
    """Repeats each step from the state of its start and compares the losses."""

    def __init__(self, **options: Any) -> None:
        self.options, self.compared = options, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.start = {
            "rng": RngState.capture(),
            "buffers": {name: buffer.clone() for name, buffer in pl_module.named_buffers()},
        }
        self.batch, self.batch_idx = batch, batch_idx

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        (again,) = replay(trainer, pl_module, self.batch, self.batch_idx, **self.start)
        assert torch.equal(again / trainer.accumulate_grad_batches, loss)
        self.compared += 1


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (DropoutNet, {}),
        (TransformerNet, {"precision": "bf16-mixed"}),
        (SpectralNet, {}),
        (BNConvNet, {}),
        (DropoutNet, {"accumulate_grad_batches": 2}),
    ],
)
def test_step_from_its_start_has_the_very_loss(make, settings):
    watch = StepWatch()
    pl.seed_everything(0, verbose=False)
    quiet_trainer(callbacks=[watch], **settings).fit(make())
    assert watch.compared == 8


class Probe(pl.Callback):
    """Runs a function once, at the start of batch ``at``."""

    def __init__(self, run: Any, at: int = 1) -> None:
        self.run, self.at, self.done = run, at, False

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.at:
            self.run(trainer, pl_module, batch)
            self.done = True


def during_fit(model: pl.LightningModule, run: Any, **settings: Any) -> None:
    probe = Probe(run)
    quiet_trainer(callbacks=[probe], limit_train_batches=3, limit_val_batches=0, **settings).fit(model)
    assert probe.done


def test_gradients_are_the_real_ones_and_then_gone():
    found = {}

    def run(trainer, pl_module, batch):
        before = [parameter.grad for parameter in pl_module.parameters()]
        x, y = batch
        truth = torch.autograd.grad(F.cross_entropy(pl_module(x), y), list(pl_module.parameters()))

        def inspect(losses):
            found["gradients"] = [parameter.grad for parameter in pl_module.parameters()]
            found["losses"] = losses

        losses = replay(trainer, pl_module, batch, 0, backward=True, inspect=inspect)
        assert losses == found["losses"]
        assert all(torch.equal(one, other) for one, other in zip(found["gradients"], truth, strict=True))
        assert all(one.grad is other for one, other in zip(pl_module.parameters(), before, strict=True))

    during_fit(Mlp(), run)


def test_gradients_where_someone_listens_for_accumulation():
    # As optimizers that step in the backward pass do, and DDP's reducer: they hear nothing.
    heard = []

    def run(trainer, pl_module, batch):
        for parameter in pl_module.parameters():
            parameter.register_post_accumulate_grad_hook(heard.append)
        replay(
            trainer,
            pl_module,
            batch,
            0,
            backward=True,
            inspect=lambda _: grads.extend(p.grad for p in pl_module.parameters()),
        )
        assert not heard

    grads: list[Tensor] = []
    during_fit(Mlp(), run)
    assert grads
    assert all(gradient is not None for gradient in grads)


def test_manual_losses_and_early_end():
    def run(trainer, pl_module, batch):
        assert len(replay(trainer, pl_module, batch, 0)) == 2
        state = RngState.capture()
        first = replay(trainer, pl_module, batch, 0, rng=state, stop_after=1)
        assert len(first) == 1
        assert torch.equal(first[0], replay(trainer, pl_module, batch, 0, rng=state)[0])

    during_fit(ManualGAN(), run)


def test_a_step_that_raises_leaves_no_trace():
    class Breaking(DiaryNet):
        broken = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.net[1].inplace = True
            if is_aside():
                raise KeyError("in the middle of it")
            return loss

    def run(trainer, pl_module, batch):
        # The step replaces, extends and writes in place; all must be as before, and the same objects.
        before, ids = copy.deepcopy(pl_module.diary_now()), {k: id(v) for k, v in pl_module.__dict__.items()}
        with pytest.raises(KeyError, match="in the middle"):
            replay(trainer, pl_module, batch, 0)
        assert_identical(before, pl_module.diary_now())
        assert ids == {k: id(v) for k, v in pl_module.__dict__.items()}
        assert not is_aside()

    def diary_now(self):
        self.late = getattr(self, "late", None)
        return self.diary()

    Breaking.diary_now = diary_now
    during_fit(Breaking(), run)


def test_write_counters_and_objects_stay():
    def run(trainer, pl_module, batch):
        tensors = {**dict(pl_module.named_parameters()), **dict(pl_module.named_buffers())}
        before = {name: (id(tensor), tensor.data_ptr(), tensor._version) for name, tensor in tensors.items()}
        with aside(trainer, pl_module), torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.fill_(float("nan"))
                parameter.data = parameter.data[:0]
            for buffer in pl_module.buffers():
                buffer.zero_()
        after = {**dict(pl_module.named_parameters()), **dict(pl_module.named_buffers())}
        assert before == {name: (id(tensor), tensor.data_ptr(), tensor._version) for name, tensor in after.items()}
        assert not any(parameter.isnan().any() for parameter in pl_module.parameters())

    during_fit(BNConvNet(), run)


def test_batch_written_and_emptied_by_the_step_is_put_back():
    class Greedy(Mlp):
        def training_step(self, batch, batch_idx):
            x, y = batch.pop("x"), batch["labels"].pop()
            x.mul_(2)
            return F.cross_entropy(self(x), y)

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return {"x": batch[0], "labels": [batch[1]]}

    def run(trainer, pl_module, batch):
        x, version = batch["x"].clone(), batch["x"]._version
        losses = [replay(trainer, pl_module, batch, 0)[0] for _ in range(2)]
        assert torch.equal(*losses)
        assert list(batch) == ["x", "labels"]
        assert len(batch["labels"]) == 1
        assert torch.equal(batch["x"], x)
        assert batch["x"]._version == version

    during_fit(Greedy(), run)


def test_nothing_is_logged_or_printed(capsys):
    class Loud(Mlp):
        def training_step(self, batch, batch_idx):
            self.print("aloud")
            self.logger.log_metrics({"direct": 1.0}, step=0)
            self.logger.experiment.add_text("greeting", "hello")
            self.trainer.should_stop = self.trainer.should_stop or is_aside()
            return super().training_step(batch, batch_idx)

    class Ledger(pl.loggers.CSVLogger):
        def __init__(self) -> None:
            super().__init__("logs")
            self.written: list[dict[str, float]] = []

        def log_metrics(self, metrics, step=None):
            self.written.append(metrics)

        @property
        def experiment(self) -> Any:
            return self

        def add_text(self, *_: str) -> None:
            self.written.append({"text": 1.0})

        def save(self) -> None: ...

    logger = Ledger()

    def run(trainer, pl_module, batch):
        spoken, written = capsys.readouterr().out, list(logger.written)
        assert "aloud" in spoken
        replay(trainer, pl_module, batch, 0)
        assert capsys.readouterr().out == ""
        assert logger.written == written
        assert trainer.loggers == [logger]
        assert trainer.should_stop is False

    during_fit(Loud(), run, logger=logger)


@pytest.mark.parametrize(
    "signature", ["batch only", "batch and index", "other names", "with dataloader_idx", "varargs"]
)
def test_arguments_are_bound_as_lightning_does(signature):
    class Plain(Mlp):
        def training_step(self, batch):
            return self.answer(batch, 5, 0)

        def answer(self, batch, index, loader):
            assert (index, loader) == (5, 0) or not is_aside()
            return F.cross_entropy(self(batch[0]), batch[1])

    class Indexed(Plain):
        def training_step(self, batch, batch_idx):
            return self.answer(batch, batch_idx, 0)

    class Renamed(Plain):
        def training_step(self, data, i):
            return self.answer(data, i, 0)

    class Loaders(Plain):
        def training_step(self, batch, batch_idx, dataloader_idx=9):
            return self.answer(batch, batch_idx, dataloader_idx)

    class Starred(Plain):
        def training_step(self, *args):
            return self.answer(args[0], args[1], 0)

    kinds = dict(
        zip(
            ["batch only", "batch and index", "other names", "with dataloader_idx", "varargs"],
            [Plain, Indexed, Renamed, Loaders, Starred],
            strict=True,
        )
    )
    during_fit(kinds[signature](), lambda trainer, module, batch: replay(trainer, module, batch, 5))


def test_step_without_a_loss():
    class Silent(Mlp):
        def training_step(self, batch, batch_idx):
            return None if is_aside() else super().training_step(batch, batch_idx)

    def run(trainer, pl_module, batch):
        assert replay(trainer, pl_module, batch, 0, backward=True) == []

    during_fit(Silent(), run)


def test_compiled_code_is_left_as_it_is():
    def run(trainer, pl_module, batch):
        from torch._dynamo.utils import counters

        before = {name: dict(counts) for name, counts in counters.items()}
        ops: list[str] = []

        class Names(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                ops.append(getattr(func, "__name__", ""))
                return func(*args, **(kwargs or {}))

        replay(trainer, pl_module, batch, 0, context=Names())
        assert "dropout" in ops  # seen, because run eagerly
        assert {name: dict(counts) for name, counts in counters.items()} == before

    torch._dynamo.reset()
    during_fit(CompiledNet(), run)


def test_bad_arguments():
    trainer, model = quiet_trainer(), BNConvNet()

    def run(trainer, pl_module, batch):
        with pytest.raises(ValueError, match="`stop_after` must be at least 1 or None, got 0"):
            replay(trainer, pl_module, batch, 0, stop_after=0)
        with pytest.raises(ValueError, match=r"`buffers` must name buffers of the module, got \['net.9.mean'\]"):
            replay(trainer, pl_module, batch, 0, buffers={"net.9.mean": torch.zeros(1)})

    during_fit(model, run)
    assert trainer.global_step == 0


def test_dataloader_iter_is_blind():
    class Drawing(Mlp):
        def training_step(self, dataloader_iter):
            (x, y), _, _ = next(dataloader_iter)
            return F.cross_entropy(self(x), y)

    with pytest.raises(CannotReplay, match="`dataloader_iter` draws its own batches"):
        replay(quiet_trainer(), Drawing(), None, 0)


def test_lazy_module_is_blind():
    class Lazy(Mlp):
        def build(self) -> nn.Module:
            return nn.LazyLinear(CLASSES)

    with (
        pytest.raises(CannotReplay, match=r"lazy module: 'net.weight' has no shape yet"),
        aside(quiet_trainer(), Lazy()),
    ):
        pass


@pytest.mark.parametrize("name", ["FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"])
def test_sharded_strategies_are_refused(name):
    trainer = quiet_trainer()
    strategy = getattr(pl.strategies, name)
    trainer.strategy.__class__ = type(name, (strategy,), {})  # they refuse to be made without their accelerator
    with pytest.raises(CannotReplay, match=f"aside under {name}"), aside(trainer, Mlp()):
        pass


def test_recorded_aside_with_the_names_of_the_module():
    def run(trainer, pl_module, batch):
        recorder = Recorder(pl_module, batch)
        for loss in replay(trainer, pl_module, batch, 0, context=recorder):
            recorder.mark_loss(loss)
        graph = recorder.graph
        assert len(graph.losses) == 1
        first, _ = graph.find("batch_norm", feeding=True)
        assert first.module == "net.1"
        read = {graph.values[index].name for index in first.inputs}
        assert read >= {"net.1.weight", "net.1.running_mean"}  # of the stand-in for the buffer too

    during_fit(BNConvNet(), run)
