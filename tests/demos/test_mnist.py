"""Every run of the demo in little: on real MNIST where it lies on this machine, else on scikit-learn's digits.

What the stories say of full runs is measured and printed by them; here it counts that each sickness is one, that the
callback finds it, and that it helps.
"""

from __future__ import annotations

import functools
import re

import command
import mnist
import mnist_data
import pytest
import stories
import torch
from mnist_nets import healthy_net
from mnist_training import Bench
from rich.console import Console
from torch.optim import AdamW

from lightning_tuning import Journal, TerminalReporter

# Findings are what the stories are about; nothing else may be warned of.
pytestmark = pytest.mark.filterwarnings("ignore::lightning_tuning.TuningWarning")


@pytest.fixture(scope="module")
def digits():
    return mnist_data.load_digits(mirrors=())


@pytest.fixture
def reports(tmp_path):
    return tmp_path / "reports"


@pytest.fixture
def bench(digits, reports):
    return Bench(digits, fast=True, report=reports, console=Console(width=100))


@pytest.fixture
def run(monkeypatch, digits):
    """``run("--story", "nan")`` is the command line on few images."""
    monkeypatch.setattr(command, "load_digits", lambda data_dir: digits)
    return lambda *arguments: mnist.main(["--fast", "--threads", "1", *arguments])


def percent(text: str) -> float:
    assert text.endswith(" %")
    return float(text[:-2])


def test_without_a_story_it_is_the_healthy_net_alone(run, reports, open_reports, capsys):
    assert run("--report", str(reports)) == 0
    said = capsys.readouterr().out
    assert "no findings" in said
    assert not any(f" {name} " in said for name in stories.STORIES)
    assert percent(re.findall(r"[\d.]+ %", said)[-1]) > 60
    open_reports()


def test_a_story_is_told_alone(run, capsys):
    assert run("--story", "init") == 0
    said = capsys.readouterr().out
    assert "WeightInitCallback" in said
    assert "healthy" not in said


def test_all_ends_with_a_table_of_everything(run, monkeypatch, capsys):
    told = []

    def tell(name, bench):
        told.append(name)
        return stories.Story(name, "Callback()", "1.00 %", "2.00 %", f"words on {name} [dim]", 1.5)

    monkeypatch.setattr(mnist, "healthy", functools.partial(tell, "healthy"))
    for name in stories.STORIES:
        monkeypatch.setitem(stories.STORIES, name, functools.partial(tell, name))
    assert run("--story", "all") == 0
    assert told == ["healthy", "nan", "explosion", "init", "plateau", "dropout-bn"]
    rows = capsys.readouterr().out.split("seconds", 1)[1]
    assert all(f"words on {name} [dim]" in " ".join(rows.split()) for name in told)  # no markup in what was said


def test_an_unknown_story_is_refused(run, capsys):
    with pytest.raises(SystemExit) as caught:
        run("--story", "nonsense")
    assert caught.value.code == 2
    assert "dropout-bn" in capsys.readouterr().err


def test_without_mnist_the_notice_is_plain(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command, "load_digits", functools.partial(mnist_data.load_digits, mirrors=()))
    assert mnist.main(["--fast", "--threads", "1", "--story", "nan", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("Not MNIST: scikit-learn's 1797 digits")


def test_broken_data_is_one_line_and_no_traceback(capsys, tmp_path):
    for name in mnist_data.SHA256:
        (tmp_path / name).write_bytes(b"broken")
    assert mnist.main(["--threads", "1", "--data-dir", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("mnist.py: ")
    assert "no IDX file" in said.err
    assert said.out == ""


def test_nan_ruins_the_net_and_the_guard_saves_it(bench, open_reports, capsys):
    story = stories.nan(bench)
    said = capsys.readouterr().out
    assert percent(story.without) < 15
    assert percent(story.cured) > 50
    assert "LT701" in story.said
    assert re.search(r"dropped [1-4] of \d+ updates", story.said)
    assert re.search(r"batch\[0\] holds NaN in samples? \d+", said)
    assert re.search(r"the line to mend is \S*spoils\.py:\d+", said)
    line = int(re.search(r"spoils\.py:(\d+)", said)[1])
    assert ".log()" in (mnist_data.ROOT / "demos" / "spoils.py").read_text().splitlines()[line - 1]
    open_reports()


def test_explosion_is_found_and_its_clip_value_taken(bench, open_reports, monkeypatch, capsys):
    if not bench.digits.is_mnist:
        pytest.skip("scikit-learn's digits are too few to explode on every machine")
    # On few images the rate is never long at its height; a higher one takes its place.
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    monkeypatch.setattr(stories, "OneCycleLR", lambda optimizer, lr, **kwargs: one_cycle(optimizer, 5 * lr, **kwargs))
    story = stories.explosion(bench)
    said = capsys.readouterr().out
    assert percent(story.cured) > percent(story.without) + 10
    assert "LT601 exploding-gradient at net." in story.said
    clip = float(re.search(r"gradient_clip_val=([\d.]+), as", story.said)[1])
    assert f"Trainer(gradient_clip_val={clip})" in " ".join(said.split())
    open_reports()


def test_explosion_says_so_when_nothing_explodes(bench, monkeypatch, capsys):
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    monkeypatch.setattr(stories, "OneCycleLR", lambda optimizer, lr, **kwargs: one_cycle(optimizer, lr / 100, **kwargs))
    story = stories.explosion(bench)
    assert story.said == "no findings"
    assert story.without == story.cured
    assert "nothing exploded" in capsys.readouterr().out


def test_init_lets_sixteen_layers_learn(bench, open_reports, capsys):
    story = stories.init(bench)
    said = capsys.readouterr().out
    assert percent(story.without) < 20
    assert percent(story.cured) > percent(story.without) + 10
    assert "16 weights initialized" in story.said
    assert re.search(r"net\.31\.weight +Linear +lecun.*output +0\.\d+ -> 0\.\d+", said)
    open_reports()


def test_plateau_lowers_the_rate_and_the_loss(bench, open_reports, monkeypatch, capsys):
    monkeypatch.setattr(stories, "SGD", lambda parameters, lr: torch.optim.SGD(parameters, lr=2 * lr))
    story = stories.plateau(bench)
    said = " ".join(capsys.readouterr().out.split())
    before, after = map(float, re.search(r"test loss ([\d.]+) -> ([\d.]+)\.", said).groups())
    assert after < before or not bench.digits.is_mnist  # where a rate of 1 is too much for either
    assert re.fullmatch(r"learning rate 1 -> 0\.2( -> [\d.]+)*", story.said)
    assert "PlateauLR lowered the learning rate 1 -> 0.2 at epoch" in said
    open_reports()


def test_dropout_before_batch_norm_is_found_and_disabled(bench, open_reports, capsys):
    story = stories.dropout_bn(bench)
    said = " ".join(capsys.readouterr().out.split())
    assert story.said == "LT301 dropout-before-batchnorm at net.11 and 2 more\n3 dropouts disabled"
    assert percent(story.cured) > percent(story.without)
    assert re.search(r"Of these [\d.]+ points the shift of the variance explains -?[\d.]+ ", said)
    open_reports()


def test_the_same_seed_gives_the_same_figures(bench):
    images = bench.images(512)
    first, again = (bench.train(healthy_net, images, AdamW) for _ in range(2))
    assert (first.accuracy, first.train_loss, first.test_loss) == (again.accuracy, again.train_loss, again.test_loss)
    states = first.module.state_dict(), again.module.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_said_is_a_line_for_each_rule():
    from lightning_tuning import CATALOGUE

    journal = Journal()
    journal.reporters.append(TerminalReporter(Console(quiet=True), summary=False))
    for where in ("b", "a", "c"):
        journal.report(CATALOGUE["LT301"].finding("x", where=where))
    journal.report(CATALOGUE["LT701"].finding("y"))
    journal.note("done")
    outcome = stories.Outcome(0.5, 0.0, 0.0, 0.0, journal.findings, journal.notes, None)
    lines = ["LT701 non-finite-loss at the run", "LT301 dropout-before-batchnorm at a and 2 more"]
    assert stories.said(outcome).splitlines() == [*lines, "done"]
    assert stories.said(outcome, "other").splitlines() == [*lines, "other"]
    assert stories.said(stories.Outcome(0.5, 0.0, 0.0, 0.0, [], [], None)) == "no findings"
