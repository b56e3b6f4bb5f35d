"""``lightning-tuning new-rule``: a fresh scaffold passes what every rule has to, and nothing is overwritten."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_tuning.cli import main
from lightning_tuning.cli.new_rule import scaffold

ROOT = Path(__file__).parent.parent
MYPY_CACHE = ROOT / ".mypy_cache"  # `make test` has filled it just before; without one mypy reads torch for a minute
LONGEST = "a-rule-of-thumb-with-a-very-long-name"[:36]
MADE = (("LT198", "loud", "check"), ("LT699", LONGEST, "monitor"), ("LT199", "quite-alone", "none"))


def checkout(folder: Path) -> Path:
    """A checkout as small as the command takes."""
    for part in (
        *(f"lightning_tuning/{room}" for room in ("rules", "checks", "monitors")),
        "tests/cases",
        "tests/rules",
    ):
        (folder / part).mkdir(parents=True)
    for name in ("lightning_tuning/rules/exploding_gradient.py", "lightning_tuning/rules/non_finite_input.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A copy of the repository with a rule for each kind of speaker, and what the command wrote."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("lightning_tuning", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    before = set(contents(root))
    for code, name, speaker in MADE:
        assert main(["new-rule", code, name, "--speaker", speaker, "--root", str(root)]) == 0
    return root, sorted(set(contents(root)) - before)


def run(root: Path, *command: str) -> str:
    """What the command prints in the copy, which is the package that it imports."""
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_files_lie_where_those_of_other_rules_do(made: tuple[Path, list[str]]) -> None:
    long = LONGEST.replace("-", "_")
    assert made[1] == sorted(
        [
            "lightning_tuning/checks/_loud.py",
            f"lightning_tuning/monitors/_{long}.py",
            *(f"lightning_tuning/rules/{module}.py" for module in ("loud", long, "quite_alone")),
            *("tests/cases/lt198_loud.py", "tests/cases/lt199_quite_alone.py", f"tests/cases/lt699_{long}.py"),
            *(f"tests/rules/test_{module}.py" for module in ("loud", long, "quite_alone")),
        ]
    )


def test_a_fresh_scaffold_lints_and_is_formatted(made: tuple[Path, list[str]]) -> None:
    root, files = made
    run(root, "ruff", "check", "--no-cache", *files)
    run(root, "ruff", "format", "--no-cache", "--check", *files)


def test_a_fresh_scaffold_type_checks(made: tuple[Path, list[str]]) -> None:
    root, files = made
    if MYPY_CACHE.is_dir():
        shutil.copytree(MYPY_CACHE, root / ".mypy_cache")
    run(root, "mypy", *(file for file in files if file.startswith("lightning_tuning")))


def test_the_tests_of_a_fresh_scaffold_pass_and_so_do_those_that_find_it(made: tuple[Path, list[str]]) -> None:
    root, files = made
    if (root / "tests" / "cases" / "__main__.py").is_file():  # as the next steps say
        run(root, "tests.cases", *(code for code, *_ in MADE))
    own = [file for file in files if not file.startswith("tests/cases")]
    found = ("test_cases.py", "test_discovery.py", "test_ways.py")
    names = [Path(file).stem for file in files]
    chosen = " or ".join(
        ["LT699", "LT198", "LT199", "test_every", "test_a_case_lies", "test_discovery", "test_the_suite", *names]
    )
    printed = run(
        root,
        *("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *own, "tests/rules/test_suspects.py"),
        *("tests/test_architecture.py", *(f"tests/contracts/{name}" for name in found), "-k", chosen),
    )
    # 12 readings and texts each; sick and healthy in one way, and those of LT6 in five more; at least.
    assert int(printed.rpartition(" passed")[0].split()[-1]) > 3 * 12 + 2 * 3 + 2 * 5


def test_what_is_to_be_filled_in_stands_in_texts_alone(made: tuple[Path, list[str]]) -> None:
    root, files = made
    for file in files:
        text = (root / file).read_text(encoding="utf-8")
        assert "$" not in text
        assert ("TODO(rule)" in text) is not file.startswith("tests/rules")


def test_the_next_steps_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout(tmp_path / "repository")
    assert main(["new-rule", "LT699", "too-loud", "--speaker", "monitor", "--root", str(root)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[:4] == [
        "lightning_tuning/rules/too_loud.py",
        "tests/rules/test_too_loud.py",
        "tests/cases/lt699_too_loud.py",
        "lightning_tuning/monitors/_too_loud.py",
    ]
    assert not any(step in printed for step in ("docs/_generated.py", "tests.cases"))
    steps = (
        "TODO(rule)",
        "TooLoudMonitor",
        "rules/_suspects.py",
        "README.md",
        "CHANGELOG.md",
        "-k LT699",
        "tests/quiet",
    )
    assert [step for step in steps if step not in printed] == []


@pytest.mark.parametrize(
    ("file", "step"),
    [
        ("tests/cases/__main__.py", "   python -m tests.cases LT699\n"),
        ("docs/_generated.py", "   python docs/_generated.py\n"),
    ],
)
def test_what_a_checkout_writes_down_is_among_the_next_steps(
    file: str, step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = checkout(tmp_path / "repository")
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).touch()
    assert main(["new-rule", "LT699", "too-loud", "--root", str(root)]) == 0
    assert step in capsys.readouterr().out


@pytest.mark.parametrize("folder", [".", "tests/rules"])
def test_a_checkout_is_found_from_within(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = checkout(tmp_path / "repository")
    monkeypatch.chdir(root / folder)
    assert main(["new-rule", "LT699", "too-loud"]) == 0
    assert (root / "lightning_tuning/rules/too_loud.py").is_file()


def test_a_dry_run_shows_everything_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout(tmp_path / "repository")
    before = contents(root)
    assert main(["new-rule", "LT699", "too-loud", "--speaker", "check", "--root", str(root), "--dry-run"]) == 0
    assert contents(root) == before
    printed = capsys.readouterr().out
    files = scaffold(root, "LT699", "too-loud", "check")
    assert len(files) == 4
    assert printed == "".join(f"# {path}\n{text}\n" for path, text in files.items())


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [
        ("LT601", "too-loud", "LT601 is that of exploding-gradient. Free is LT605."),
        ("LT603", "too-loud", "LT603 is that of the case lt603_taken.py."),
        ("LT604", "too-loud", "LT604 is retired: codes are never reused. Free is LT605."),
        ("LT6011", "too-loud", "must be 'LT' and three digits, got 'LT6011'"),
        ("lt699", "too-loud", "must be 'LT' and three digits, got 'lt699'"),
        ("LT001", "too-loud", "a block of a hundred that there is (LT1, LT6), got 'LT001'"),
        ("LT699", "exploding-gradient", "is that of LT601: names are unique"),
        ("LT699", "Too-Loud", "kebab case"),
        ("LT699", "too_loud", "kebab case"),
        ("LT699", "too--loud", "kebab case"),
        ("LT699", "2-loud", "kebab case"),
        ("LT699", "../loud", "kebab case"),
        ("LT699", "", "kebab case"),
        ("LT699", "lambda", "no word of Python"),
        ("LT699", "x" * 37, "at most 36 characters"),
        ("LT699", "taken", "rules/taken.py is there already, and would not be overwritten; nothing was written."),
        ("LT699", "tested", "rules/test_tested.py is there already"),
    ],
)
def test_what_cannot_be_had_is_refused(
    code: str, name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = checkout(tmp_path / "repository")
    for file in ("tests/cases/lt603_taken.py", "lightning_tuning/rules/taken.py", "tests/rules/test_tested.py"):
        (root / file).touch()
    retires = 'from lightning_tuning.findings import CATALOGUE\n\nCATALOGUE.retire("LT604", successor="LT601")\n'
    (root / "lightning_tuning/rules/_retired.py").write_text(retires, encoding="utf-8")
    before = contents(root)
    assert main(["new-rule", code, name, "--root", str(root)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert contents(root) == before


def test_a_free_code_is_named_behind_the_last_one_or_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = checkout(tmp_path / "repository")
    assert main(["new-rule", "LT699", "too-loud", "--root", str(root)]) == 0
    assert main(["new-rule", "LT699", "loud", "--root", str(root)]) == 2
    assert "LT699 is that of too-loud. Free is LT600." in capsys.readouterr().err


def test_outside_of_a_checkout_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-rule", "LT699", "too-loud"]) == 2
    assert f"{tmp_path} is in no checkout of lightning-tuning" in capsys.readouterr().err
    assert main(["new-rule", "LT699", "too-loud", "--root", "nowhere"]) == 2
    assert "`--root` nowhere is no checkout of lightning-tuning" in capsys.readouterr().err
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_all_files_are_written_or_none(
    kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = checkout(tmp_path / "repository")
    before, link, calls = contents(root), os.link, []

    def fails(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) > kept:
            raise OSError(28, "No space left on device")
        link(source, target)

    monkeypatch.setattr(os, "link", fails)
    assert main(["new-rule", "LT699", "too-loud", "--root", str(root)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert len(calls) == kept + 1
    assert contents(root) == before


def test_a_file_that_comes_up_meanwhile_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = checkout(tmp_path / "repository")
    link, theirs = os.link, root / "tests/rules/test_too_loud.py"

    def races(source: Path, target: Path) -> None:
        theirs.write_text("theirs", encoding="utf-8")
        link(source, target)

    monkeypatch.setattr(os, "link", races)
    assert main(["new-rule", "LT699", "too-loud", "--root", str(root)]) == 2
    assert theirs.read_text(encoding="utf-8") == "theirs"
    assert not (root / "lightning_tuning/rules/too_loud.py").exists()
