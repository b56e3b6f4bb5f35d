"""Settings from outside of the code: the variable over the file, and a broken one says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_tuning.findings.settings import Settings, settings_here


def project(text: str, folder: str = ".") -> None:
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / "pyproject.toml").write_text(text, encoding="utf-8")


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIGHTNING_TUNING", raising=False)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("recommended", Settings()),
        ("1", Settings()),
        ("check-only", Settings(checks_only=True)),
        ("Check-Only, -LT405", Settings(checks_only=True, ignore=("LT405",))),
        ("recommended,-LT405", Settings(ignore=("LT405",))),
        ("LT3,LT4,-LT405", Settings(select=("LT3", "LT4"), ignore=("LT405",))),
        ("-encoder.*", Settings(ignore=("encoder.*",))),
        ("check.*,off.*", Settings(select=("check.*", "off.*"))),  # modules of these names
        ("exploding-gradient", Settings(select=("exploding-gradient",))),
        ("off", None),
        (" OFF ", None),
        ("0", None),
        ("", None),
    ],
)
def test_the_variable(text: str, settings: Settings | None) -> None:
    assert Settings.from_variable(text) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recomended", "LIGHTNING_TUNING=recomended: 'recomended' is no setting. Did you mean 'recommended'?"),
        ("checks-only", "Did you mean 'check-only'?"),
        ("off,LT3", "'off' stands alone"),
        ("no/such.yaml", "LIGHTNING_TUNING=no/such.yaml: .*No such file"),
    ],
)
def test_a_broken_variable(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.from_variable(text)


def test_a_yaml_file() -> None:
    Path("tuning.yaml").write_text(
        "ignore: [LT3]\nseverity: {LT901: warning}\nchecks-only: true\nlog-findings: false\n", encoding="utf-8"
    )
    assert Settings.from_variable("tuning.yaml") == Settings(
        ignore=("LT3",), severity={"LT901": "warning"}, checks_only=True, log_findings=False
    )
    Path("tuning.yaml").write_text("", encoding="utf-8")
    assert Settings.from_variable("tuning.yaml") == Settings()
    Path("tuning.yaml").write_text("ignore: [", encoding="utf-8")
    with pytest.raises(ValueError, match=r"LIGHTNING_TUNING=tuning\.yaml: while parsing"):
        Settings.from_variable("tuning.yaml")


PROJECT = """
[tool.lightning-tuning]
ignore = ["LT301"]
on-finding = "raise"
[tool.lightning-tuning.per-path-ignores]
"legacy/*" = ["LT4"]
[tool.lightning-tuning.severity]
LT901 = "warning"
[tool.lightning-tuning.options.UpdateMonitor]
every_n_steps = 10
"""


def test_the_nearest_project_with_a_table_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    project(PROJECT)
    project("[tool.other]\nx = 1\n", "deep/deeper")
    monkeypatch.chdir("deep/deeper")
    assert settings_here() == Settings(
        ignore=("LT301",),
        on_finding="raise",
        per_path_ignores={"legacy/*": ["LT4"]},
        severity={"LT901": "warning"},
        options={"UpdateMonitor": {"every_n_steps": 10}},
    )


def test_the_variable_wins_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    project(PROJECT)
    monkeypatch.setenv("LIGHTNING_TUNING", "recommended,-LT405")
    settings = settings_here()
    assert (settings.ignore, settings.on_finding) == (("LT405",), "raise")


def test_without_any_nothing_is_said() -> None:
    assert settings_here() == Settings()


def test_somebody_elses_broken_file_is_not_ours() -> None:
    project("[tool.other\n")
    assert settings_here() == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.lightning-tuning]\nignor = []\n", r"tuning\]: `ignor` is no setting. Did you mean 'ignore'"),
        ("[tool.lightning-tuning]\nqqq = 1\n", "`qqq` is no setting. Known are: select"),
        ("[tool.lightning-tuning]\nignore = 'LT3'\n", "`ignore` must be a list of codes, names or globs, got 'LT3'"),
        ("[tool.lightning-tuning]\nchecks-only = 1\n", "`checks_only` must be true or false, got 1"),
        ("[tool.lightning-tuning]\nlog-findings = 'no'\n", "`log_findings` must be true or false, got 'no'"),
        ("[tool.lightning-tuning]\nseverity = 'error'\n", "`severity` must be a table, got 'error'"),
        ("[tool]\nlightning-tuning = 3\n", "must be a table of settings, got 3"),
        ("[tool.lightning-tuning\n", "pyproject.toml: "),
    ],
)  # fmt: skip
def test_a_broken_file_says_where(text: str, message: str) -> None:
    project(text)
    with pytest.raises(ValueError, match=message):
        settings_here()
