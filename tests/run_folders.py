"""Run folders of every kind, in the format that a recorder writes: ``make("sick", tmp_path)`` is a folder to read.

Each is made of plain numbers by a formula, without a training run. :data:`MAKERS` names all of them.

======================  ====================================================================
``healthy``             one epoch by the book: every curve, a model, a schedule, no finding
``sick``                findings of each severity at several places, notes, a diagnosis
``empty``               a run that ended before its first step
``one_step``            a single step
``not_numbers``         NaN and both infinities in every curve
``deep``                200 layers
``long``                10,000 steps in 200 layers: single up to 1,000, then blocks
``names``               Chinese, emoji, right-to-left, half a surrogate pair, no place to break
``three_findings``      three of them
``many_findings``       3,000 of them
``injection``           markup and script in every text there is
``two_optimizers``      a GAN: steps alternate
``several_optimizers``  three, one of which has two groups of parameters
``killed``              ended in the middle of a line, before any summary
``no_model``            nothing that was traced
``schedule``            simulated rates, and actual ones that leave them
======================  ====================================================================
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning_tuning.findings import Diagnosis, Finding, Severity, Suspect
from lightning_tuning.reporters.json_lines import JsonLines
from lightning_tuning.reporters.run_folder import FINDINGS, MODEL, READINGS, RUN

Line = dict[str, Any]
INF, NAN = math.inf, math.nan
SINGLE = 1_000
"""Steps that have a line each; of later ones a block of :data:`BLOCK` has."""
BLOCK = 20
CURVES = ("loss", "loss_min", "loss_max", "grad_norm", "grad_norm_max", "clip")
LAYERS = ("net.0", "net.2", "net.4", "head")

INFO: Line = {
    "version": 1,
    "status": "finished",
    "started": "2026-03-01T09:30:00+00:00",
    "ended": "2026-03-01T09:41:30+00:00",
    "error": None,
    "versions": {"python": "3.11.2", "torch": "2.13.0", "lightning": "2.6.6", "lightning-tuning": "0.1.0"},
    "model": {"class": "LitMnist", "parameters": 101_770, "trained": 101_770},
    "trainer": {
        "precision": "32-true",
        "devices": 1,
        "max_epochs": 1,
        "max_steps": -1,
        "accumulate_grad_batches": 1,
        "gradient_clip_val": 1.0,
        "steps": 120,
        "epochs": 1,
    },
    "progress": "learning",
}
SICK = (
    Finding(
        "LT314",
        "redundant-softmax",
        Severity.ERROR,
        "softmax feeds cross_entropy, which applies its own: the loss cannot fall below 1.46",
        where="head",
        source_line="train.py:31",
        evidence={"classes": 10, "floor": 1.46, "loss": "cross_entropy"},
        remedy="give the loss the raw output: `F.cross_entropy(self.head(x), y)`; keep the softmax for predictions.",
    ),
    Finding(
        "LT701",
        "non-finite-loss",
        Severity.ERROR,
        "the loss is nan",
        source_line="train.py:40",
        evidence={"loss": NAN, "grad_norm": INF, "cause": "log-of-zero"},
        remedy="clamp before the log: `torch.log(p.clamp_min(1e-8))`",
        step=100,
        last_step=119,
        epoch=0,
        count=20,
    ),
    Finding(
        "LT601",
        "exploding-gradient",
        Severity.WARNING,
        "norm 310.0 > 10 x median 1.2",
        where="net.2.weight",
        evidence={"norm": 310.0, "median": 1.2, "factor": 10},
        remedy="Trainer(gradient_clip_val=3.6)",
        step=61,
        last_step=99,
        epoch=0,
        count=37,
    ),
    Finding(
        "LT608",
        "dead-units",
        Severity.WARNING,
        "71 of 128 units gave 0 for every sample of the last 50 batches",
        where="net.2",
        source_line="train.py:28",
        evidence={"dead": 71, "units": 128},
        remedy="lower the learning rate, or LeakyReLU",
        step=50,
        last_step=50,
        epoch=0,
    ),
    Finding(
        "LT405",
        "adam-l2",
        Severity.INFO,
        "Adam with weight_decay=0.01 adds it to the gradient",
        where="Adam group 0",
        evidence={"weight_decay": 0.01},
        remedy="AdamW(params, lr, weight_decay=0.01)",
    ),
)


@dataclasses.dataclass
class Content:
    """What goes into a folder; fields are changed freely before :meth:`write`.

    Args:
        info: ``run.json``; ``None``: there is none.
        told: findings as they came.
        notes: of the summary.
        diagnosis: likewise.
        is_summed_up: whether the run reached the line with the summary.
        readings: lines of ``readings.jsonl``.
        model: ``model.json``; ``None``: there is none.
        name: of the folder.
    """

    info: Line | None = None
    told: list[Finding] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    diagnosis: Diagnosis | None = None
    is_summed_up: bool = True
    readings: list[Line] = dataclasses.field(default_factory=list)
    model: Line | None = None
    name: str = "run"

    def write(self, parent: Path) -> Path:
        """The folder, with its files in it."""
        folder = parent / self.name
        folder.mkdir(parents=True)
        told: list[Line] = [{"event": "finding", "finding": found.to_dict()} for found in self.told]
        if self.is_summed_up:
            folded = {found.key: found.to_dict() for found in self.told}
            diagnosis = self.diagnosis and self.diagnosis.to_dict()
            told.append(
                {"event": "summary", "findings": [*folded.values()], "notes": self.notes, "diagnosis": diagnosis}
            )
        for name, lines in ((FINDINGS, told), (READINGS, self.readings)):
            file = JsonLines(folder / name, f"lightning-tuning/{name.removesuffix('.jsonl')}")
            file.add(*lines)
            file.close()
        for name, content in ((RUN, self.info), (MODEL, self.model)):
            if content is not None:
                (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return folder


def make(name: str, parent: Path) -> Path:
    """The folder of the kind called ``name``, new below ``parent``."""
    return MAKERS[name]().write(parent)


def numbers(layers: Iterable[str], scale: float, generator: random.Random) -> dict[str, float]:
    """Around ``scale``, one for each layer."""
    return {layer: scale * generator.uniform(0.5, 2.0) for layer in layers}


def readings(
    steps: int, layers: Iterable[str] = LAYERS, *, every: int = 1, validate: int = 40, group: str = "AdamW group 0"
) -> Iterator[Line]:
    """The lines of a run that learns.

    Args:
        steps: how many it made.
        layers: which are measured, each with a weight.
        every: steps from one measurement of the layers to the next.
        validate: likewise of validation.
        group: of parameters.
    """
    generator = random.Random(0)
    layers = tuple(layers)
    weights = [f"{layer}.weight" for layer in layers]
    ends = [*range(min(steps, SINGLE)), *range(SINGLE + BLOCK - 1, steps, BLOCK)]
    first = 0
    for last in ends:
        loss, norm = 2.3 * math.exp(-3 * last / steps) + 0.05 * generator.random(), 0.8 + 0.4 * generator.random()
        seconds = 0.02 * (last + 1)
        at: Line = {"step": last, "epoch": 0, "seconds": seconds}
        count = last + 1 - first
        spread = 0.2 if count > 1 else 0.0
        yield {
            "kind": "steps",
            "step": first,
            "last_step": last,
            "epoch": 0,
            "optimizer": 0,
            "count": count,
            "loss": loss,
            "loss_min": loss - spread * loss,
            "loss_max": loss + spread * loss,
            "grad_norm": norm,
            "grad_norm_max": norm + spread,
            "clip": 1.0,
            "clipped": float(norm > 1) if count == 1 else 0.4,
            "seconds": seconds,
        }
        first = last + 1
        yield {"kind": "lr", **at, "values": {group: 1e-3 * rate(last, steps)}}
        if last % every == every - 1:
            yield {"kind": "grad_norm", **at, "values": numbers(weights, 0.1, generator)}
            yield {"kind": "update_ratio", **at, "values": numbers(weights, 1e-3, generator)}
            yield {"kind": "dead_units", **at, "values": numbers(layers, 0.05, generator)}
            yield {"kind": "saturated_units", **at, "values": numbers(layers, 0.02, generator)}
            yield {"kind": "attention_entropy", **at, "values": numbers(layers[-1:], 0.5, generator)}
            yield {"kind": "logged", **at, "values": {"train_loss": loss, "tuning/grad_norm": norm}}
        if last % validate == validate - 1:
            score = 1 - 0.9 * math.exp(-3 * last / steps)
            yield {"kind": "validation", **at, "values": {"val_loss": 1.1 * loss, "val_acc": score}}
    if ends:
        at = {"step": steps, "epoch": 0, "seconds": 0.02 * steps}
        yield {"kind": "variance_shift", **at, "values": numbers(layers[1:2], 1.0, generator)}
        yield {"kind": "cost", **at, "values": {"step": 0.02, "ActivationMonitor": 4e-4, "UpdateMonitor": 1e-4}}


def rate(step: int, steps: int) -> float:
    """Of a warm-up over a tenth of the run and a cosine, as a share of the highest."""
    warm = max(1, steps // 10)
    return (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))


def simulated(steps: int, group: str = "AdamW group 0") -> Line:
    """What the simulation of the schedule said before the run: each group's rates, thinned."""
    shown = [*range(0, steps, max(1, steps // 200))]
    return {"steps": shown, "lr": {group: [1e-3 * rate(step, steps) for step in shown]}}


def model(layers: Iterable[str] = LAYERS) -> Line:
    """A chain of layers with a shortcut around the second, and the loss at its end."""
    nodes: list[Line] = [
        {
            "module": layer,
            "kind": "Linear",
            "operations": ["linear", "relu"],
            "shape": [64, 128],
            "parameters": 16_512,
            "source_line": f"train.py:{20 + number}",
        }
        for number, layer in enumerate(layers)
    ]
    nodes.append({"module": "", "kind": "loss", "operations": ["cross_entropy"], "shape": [], "parameters": 0})
    edges = [[place, place + 1] for place in range(len(nodes) - 1)]
    if len(nodes) > 3:
        edges.append([0, 2])
    return {"version": 1, "nodes": nodes, "edges": edges, "blind": ["torch.compile hides what runs in `net.2`."]}


def healthy(steps: int = 120, layers: tuple[str, ...] = LAYERS, **options: Any) -> Content:
    """A run that learns, of any length and depth."""
    info = {**INFO, "trainer": {**INFO["trainer"], "steps": steps}, "schedule": simulated(steps)}
    return Content(info, readings=[*readings(steps, layers, **options)], model=model(layers))


def one_step() -> Content:
    """Too short to tell how it went."""
    content = healthy(1)
    content.info["progress"] = "unknown"
    return content


def sick() -> Content:
    """One that went wrong in every way."""
    content = healthy()
    content.info |= {"status": "failed", "progress": "diverging", "error": "TuningError: the loss is nan"}
    early = dataclasses.replace(SICK[2], severity=Severity.INFO, last_step=61, count=1)
    content.told = [SICK[0], SICK[4], SICK[3], early, *SICK[1:3]]
    content.notes = ["NanLossGuard dropped 20 of 120 updates", "PlateauLR lowered the learning rate 0.001 -> 0.0002"]
    suspects = (Suspect(SICK[0], "its gradients vanish"), Suspect(SICK[2], "one step may undo what was learned"))
    content.diagnosis = Diagnosis("the run broke: the loss is nan from step 100 on", suspects)
    for line in content.readings:
        if line["kind"] == "steps" and line["step"] >= 100:
            line |= {"loss": NAN, "loss_min": NAN, "loss_max": NAN, "grad_norm": INF, "grad_norm_max": INF}
    return content


def empty() -> Content:
    """Nothing but the headers."""
    info = {**INFO, "status": "interrupted", "progress": "unknown", "trainer": {**INFO["trainer"], "steps": 0}}
    return Content(info)


def not_numbers() -> Content:
    """Each curve has numbers, and each of the three that JSON lacks."""
    content = healthy()
    bad = (NAN, INF, -INF)
    seen: dict[str, int] = {}
    for line in content.readings:
        kind = line["kind"]
        number = seen[kind] = seen.get(kind, -1) + 1
        if number % 4 == 1:
            value = bad[number // 4 % 3]
            if kind == "steps":
                line.update(dict.fromkeys(CURVES, value))
            else:
                line["values"] = dict.fromkeys(line["values"], value)
    content.info["schedule"]["lr"]["AdamW group 0"][3] = "nan"
    return content


def deep() -> Content:
    """As many layers as a large net has."""
    content = healthy(200, tuple(f"encoder.layers.{number}.ff" for number in range(200)), every=4)
    worst = dataclasses.replace(SICK[3], where="encoder.layers.117.ff")
    content.told = [worst, dataclasses.replace(SICK[2], where="encoder.layers.42.ff.weight")]
    return content


def long() -> Content:
    """The same for long enough that it has to be thinned."""
    content = healthy(10_000, tuple(f"encoder.layers.{number}.ff" for number in range(200)), every=100, validate=500)
    content.told = [dataclasses.replace(SICK[2], where="encoder.layers.42.ff.weight", step=9_001, last_step=9_990)]
    return content


NAMES = (
    "编码器.注意力",
    "🧠.🔥‍🔥",
    "מקודד.שכבה",
    "\u202eevil.\u2066txt",
    "a" * 300,
    "half \ud83d surrogate",
    "tab\there\nline \x00 \x1b[31m red",
    "a.b[0]['c']\\d\"e\"",
    " ",
    "__proto__",
    "constructor",
)
"""Of modules, metrics and groups; some that software treats in a way of their own."""


def renamed(content: Content, texts: Iterable[str]) -> Content:
    """``content`` with ``texts`` wherever a folder holds a name, a sentence or a version."""
    texts = [*texts]
    count = 0

    def text() -> str:
        nonlocal count
        count += 1
        return texts[count % len(texts)]

    def every(keep: Iterable[float] | None = None) -> dict[str, float]:
        return dict(zip(texts, [*(keep or ())] + [0.25] * len(texts), strict=False))

    for line in content.readings:
        if line["kind"] != "steps":
            line["values"] = every(line["values"].values())
    for node in content.model["nodes"]:
        node |= {"module": text(), "kind": text(), "operations": [text(), text()], "source_line": text()}
    content.model["blind"] = texts
    content.told = [
        dataclasses.replace(
            found,
            code=text() if number % 2 else found.code,
            name=text(),
            message=said,
            where=said,
            source_line=text(),
            evidence={said: text(), text(): 3.0},
            remedy=text(),
        )
        for number, said in enumerate(texts)
        for found in [SICK[number % len(SICK)]]
    ]
    content.notes = texts
    content.diagnosis = Diagnosis(text(), tuple(Suspect(found, text()) for found in content.told))
    content.info |= {
        "error": text(),
        "status": "failed",
        "progress": text(),
        "versions": {said: text() for said in texts},
        "model": {"class": text(), "parameters": 7, "trained": 7},
        "schedule": {"steps": [0, 50, 100], "lr": {said: [0.1, 0.2, 0.1] for said in texts}},
    }
    return content


INJECTIONS = (
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=2</script>",
    '"><img src=x onerror="window.pwned=3">',
    "javascript:window.pwned=4",
    "{{7*7}}",
    "{% raw %}{{ self }}",
    "line\u2028window.pwned=5;\u2029//",
    "<!--<script>",
    "</style></svg></title></textarea><svg onload=window.pwned=6>",
    "' onmouseover='window.pwned=7' x='",
    "\\u003cscript\\u003ewindow.pwned=8\\u003c/script\\u003e &lt;b&gt;",
    "${window.pwned=9}`+window.pwned+`",
    "datum['x'] + toString(window.pwned=10)",
    "](javascript:window.pwned=11) <a href=javascript:window.pwned=12>press</a>",
)
"""Each would be noticed, as ``window.pwned``, a dialog, or a text that is not what it was."""


def injection() -> Content:
    """A run by somebody who wants the reader's browser, down to the name of the folder."""
    content = renamed(healthy(), INJECTIONS)
    content.name = "<img src=x onerror=window.pwned=13>"
    content.info |= {
        "status": INJECTIONS[0],
        "started": INJECTIONS[1],
        "ended": INJECTIONS[2],
        "trainer": {**dict(zip(INJECTIONS, INJECTIONS, strict=True)), "precision": INJECTIONS[1], "steps": 120},
    }
    for line in content.readings[::50]:
        content.readings.append({**line, "kind": "</script><script>window.pwned=14</script>", "values": {"x": 1.0}})
    return content


def names() -> Content:
    """A run by somebody who does not write English."""
    content = renamed(healthy(), NAMES)
    content.name = "训练 🧪 ריצה"
    return content


def findings(count: int) -> list[Finding]:
    """As many, all different, of five rules and three severities, some before the run."""
    return [
        dataclasses.replace(
            found,
            where=f"net.{number}",
            source_line=f"train.py:{number + 1}",
            step=None if found.step is None else number % 120,
            last_step=None if found.step is None else 119,
        )
        for number in range(count)
        for found in [SICK[number % len(SICK)]]
    ]


def of_findings(count: int) -> Content:
    """A healthy run's curves with ``count`` findings."""
    content = healthy()
    content.told = findings(count)
    return content


def optimizers(labels: tuple[tuple[str, ...], ...]) -> Content:
    """Steps alternate between optimizers, each with its groups."""
    content = healthy()
    lines: list[Line] = []
    for line in content.readings:
        if line["kind"] == "steps":
            line["optimizer"] = line["step"] % len(labels)
            line |= {name: line[name] + line["optimizer"] for name in ("loss", "loss_min", "loss_max")}
        elif line["kind"] == "lr":
            (rate_now,) = line["values"].values()
            groups = [label for label_of_one in labels for label in label_of_one]
            line["values"] = {label: rate_now / (place + 1) for place, label in enumerate(groups)}
        lines.append(line)
    content.readings = lines
    content.info["schedule"]["lr"] = dict.fromkeys(groups, content.info["schedule"]["lr"]["AdamW group 0"])
    return content


class Killed(Content):
    """What a process leaves that was killed while it wrote."""

    def write(self, parent: Path) -> Path:
        """The folder, its last lines cut in half."""
        folder = super().write(parent)
        for name in (FINDINGS, READINGS):
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content[: -len(content.splitlines()[-1]) // 2 - 1])
        return folder


def killed() -> Content:
    """Half way; ``run.json`` still says that it is running."""
    content = healthy()
    info = {name: value for name, value in content.info.items() if name != "ended"}
    info["status"] = "running"
    return Killed(
        info,
        told=[SICK[0], SICK[3], SICK[2]],
        is_summed_up=False,
        readings=content.readings[: len(content.readings) // 2],
        model=content.model,
    )


def no_model() -> Content:
    """Sick, and not traced."""
    content = sick()
    content.model = None
    return content


def schedule() -> Content:
    """A plateau lowers the rate in mid-run, which the simulation could not know."""
    content = healthy()
    for line in content.readings:
        if line["kind"] == "lr" and line["step"] >= 60:
            line["values"] = {"AdamW group 0": 0.2 * line["values"]["AdamW group 0"]}
    return content


MAKERS: dict[str, Callable[[], Content]] = {
    "healthy": healthy,
    "sick": sick,
    "empty": empty,
    "one_step": one_step,
    "not_numbers": not_numbers,
    "deep": deep,
    "long": long,
    "names": names,
    "three_findings": lambda: of_findings(3),
    "many_findings": lambda: of_findings(3_000),
    "injection": injection,
    "two_optimizers": lambda: optimizers((("Adam group 0",), ("Adam-1 group 0",))),
    "several_optimizers": lambda: optimizers((("SGD group 0",), ("Adam group 0", "Adam group 1"), ("LBFGS group 0",))),
    "killed": killed,
    "no_model": no_model,
    "schedule": schedule,
}
