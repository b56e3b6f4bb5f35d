"""The command line: what it prints, how it exits, and that it does not wait for torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_tuning.rules
from lightning_tuning import __version__
from lightning_tuning.cli import main, markdown_table
from lightning_tuning.findings import CATALOGUE, Rule, Severity
from lightning_tuning.findings.causes import CAUSES
from lightning_tuning.findings.optimizers import OPTIMIZERS

ROOT = Path(__file__).parent.parent
RULES = list(CATALOGUE)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)


def test_rules_lists_the_catalogue_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules"]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^LT\d{3}", printed, re.MULTILINE) == [rule.code for rule in RULES]
    assert all(rule.name in printed for rule in RULES)
    assert printed.splitlines()[0].split() == ["code", "name", "severity", "kind", "why"]


@pytest.mark.parametrize("prefixes", [["LT6"], ["lt6"], ["LT6", "LT301"]])
def test_select_takes_prefixes(capsys: pytest.CaptureFixture[str], prefixes: list[str]) -> None:
    assert main(["rules", "--select", *prefixes]) == 0
    codes = re.findall(r"^LT\d{3}", capsys.readouterr().out, re.MULTILINE)
    assert codes == [rule.code for rule in RULES if any(rule.code.startswith(p.upper()) for p in prefixes)]
    assert "LT601" in codes


def test_select_of_nothing_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "--select", "LT0", "XY"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "LT0 or XY" in captured.err


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_every_rule_can_be_explained_by_code_and_by_name(capsys: pytest.CaptureFixture[str], rule: Rule) -> None:
    assert main(["explain", rule.code.lower()]) == 0
    card = capsys.readouterr().out
    words = card.split()
    assert words[:3] == [rule.code, f"{rule.name},", str(rule.severity)]
    for text in (rule.why, rule.remedy, rule.source, rule.since):
        assert " ".join(text.split()) in " ".join(words)
    assert f'TuningSuite(ignore=["{rule.code}"])' in card
    assert main(["explain", rule.name]) == 0
    assert capsys.readouterr().out == card


def test_optimizers_are_compared_beside_rules(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["explain", "optimizers", "LT405"]) == 0
    printed = capsys.readouterr().out
    words = " ".join(printed.split())
    for name, facts in OPTIMIZERS.items():
        assert all(
            " ".join(text.split()) in words for text in (name, facts.take, facts.trap, facts.decay, facts.source)
        )
    assert "LT405 adam-l2" in printed
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_no_figure_of_an_optimizer_is_cut_short(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["explain", "optimizers"]) == 0
    assert "…" not in capsys.readouterr().out


@pytest.mark.parametrize("code", ["LT701", "LT702", "LT703"])
def test_causes_are_listed_with_their_remedies(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["explain", code]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert {line.split()[0] for line in lines if line.strip()} >= CAUSES.keys()
    words = set(" ".join(lines).split())
    for cause in CAUSES.values():
        assert {*cause.meaning.split()} <= words
    assert main(["explain", "LT601"]) == 0
    assert "what to change" not in capsys.readouterr().out


def test_unknown_rule_names_the_nearest_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "LT6011", "exploding-gradients"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 2
    assert all("LT601" in line for line in captured.err.splitlines())


def test_known_rules_are_explained_beside_unknown_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nonsense", "LT601"]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("LT601")
    assert "nonsense" in captured.err


@pytest.mark.parametrize("arguments", [[], ["explain"], ["rules", "--format", "html"], ["cure"]])
def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: lightning-tuning" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"lightning-tuning {__version__}\n"


def test_markdown_cells_cannot_break_the_table() -> None:
    why = "a | b\nover two lines. And more."
    rule = Rule("LT999", "odd", Severity.ERROR, "outcome", why=why, remedy="Less.", source="Measured.")
    assert markdown_table([rule]).splitlines()[2] == "| LT999 | odd | error | outcome | a \\| b over two lines. |"


def test_table_of_the_readme_is_the_catalogue() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tables = re.findall("<!-- rules:begin -->(.*?)<!-- rules:end -->", readme, re.DOTALL)
    assert [table.strip() for table in tables] == [markdown_table(RULES)], (
        "put what `lightning-tuning rules --format markdown` prints between the markers"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rules"], "LT601"),
        (["explain", "LT601"], "exploding-gradient"),
        (["new-rule", "LT699", "too-loud", "--dry-run"], "rules/too_loud.py"),
    ],
    ids=lambda value: value[0],
)
def test_what_needs_no_torch_does_not_wait_for_it(arguments: list[str], said: str) -> None:
    script = (
        f"import sys; from lightning_tuning.cli import main; main({arguments}); "
        "print('loaded:', {'torch', 'lightning', 'lightning_fabric'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert said in printed
    assert printed.endswith("loaded: set()\n")


def test_reader_who_leaves_early_is_no_error() -> None:
    script = "import sys; from lightning_tuning.cli import main; sys.exit(main(['rules', '--format', 'markdown']))"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_catalogue_was_filled_by_the_rules() -> None:
    assert lightning_tuning.rules.__name__ in sys.modules
    assert {"LT301", "LT601"} <= {rule.code for rule in RULES}
