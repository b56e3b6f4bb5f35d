"""The command line: ``lightning-tuning rules``, ``explain LT601``, ``check`` and ``lr module:Class``, ``replay``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_tuning import __version__
from lightning_tuning.cli._arguments import add_check_arguments, add_lr_arguments, add_replay_arguments
from lightning_tuning.cli._optimizers import WORD, optimizer_comparison
from lightning_tuning.cli.diff import add_diff_arguments, diff
from lightning_tuning.cli.findings import add_findings_arguments, findings
from lightning_tuning.cli.new_rule import add_new_rule_arguments, new_rule
from lightning_tuning.findings import CATALOGUE, Rule, UnknownRuleError
from lightning_tuning.findings.causes import CAUSES
from lightning_tuning.findings.declarations import register_declared_rules
from lightning_tuning.reporters.beside import print_beside_bars
from lightning_tuning.reporters.layout import STYLES

__all__ = ["main", "markdown_table"]

RULES = Path(__file__).parent.parent / "rules"
WIDEST = 100  # columns of a card: it is prose
COLUMNS = ("code", "name", "severity", "kind", "why")
WITH_CAUSE = ("LT701", "LT702", "LT703")
KINDS = {
    "fact": "fact: wrong while the run still looks well, so it is never held back",
    "symptom": "symptom: warns only once it persists in a run that does not learn",
    "outcome": "outcome: what the run itself shows",
    "advice": "advice: said only of a run that is not seen to learn",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 if a check found something, 2 for what cannot be done.

    Example:
        >>> main(["rules", "--select", "LT0000"])
        2
    """
    arguments = _parser().parse_args(argv)
    register_declared_rules(RULES)
    try:
        if arguments.command == "explain":
            status = _explain(arguments.rules)
        elif arguments.command == "check":
            status = _check(arguments)
        elif arguments.command == "lr":
            status = _lr(arguments)
        elif arguments.command == "replay":
            status = _replay(arguments)
        elif arguments.command == "new-rule":
            status = new_rule(arguments)
        elif arguments.command == "diff":
            status = diff(arguments)
        elif arguments.command == "findings":
            status = findings(arguments)
        else:
            status = _rules(arguments.select, arguments.format)
        sys.stdout.flush()
    except BrokenPipeError:  # `lightning-tuning rules | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it exits
        return 1
    return status


def markdown_table(rules: Iterable[Rule]) -> str:
    """``rules`` as a table in Markdown, the one in the README.

    Example:
        >>> from lightning_tuning.findings import Severity
        >>> rule = Rule("LT999", "too-much", Severity.INFO, "fact", why="It is. Really.", remedy="Less.", source="Us.")
        >>> print(markdown_table([rule]))
        | code | name | severity | kind | why |
        | --- | --- | --- | --- | --- |
        | LT999 | too-much | info | fact | It is. |
    """
    rows = (COLUMNS, ["---"] * len(COLUMNS), *map(_row, rules))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-tuning",
        description="A linter and a first-aid kit for training runs: its rules, and the reason of each.",
    )
    parser.add_argument("--version", action="version", version=f"lightning-tuning {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    rules = commands.add_parser("rules", help="list the rules")
    rules.add_argument("--select", nargs="+", metavar="PREFIX", help="only codes that begin so, as LT6")
    rules.add_argument("--format", choices=("table", "markdown"), default="table", help="default: %(default)s")
    explain = commands.add_parser("explain", help="tell all that is known about a rule, or compare optimizers")
    explain.add_argument(
        "rules", nargs="+", metavar="RULE", help="a code (LT601) or a name (exploding-gradient); or `optimizers`"
    )
    add_check_arguments(commands)
    add_lr_arguments(commands)
    add_replay_arguments(commands)
    add_findings_arguments(commands)
    add_diff_arguments(commands)
    add_new_rule_arguments(commands)
    return parser


def _check(arguments: argparse.Namespace) -> int:
    from lightning_tuning.cli.check import check  # noqa: PLC0415  # torch and Lightning; the other commands need neither

    return check(arguments)


def _lr(arguments: argparse.Namespace) -> int:
    from lightning_tuning.cli.lr import lr  # noqa: PLC0415  # see above

    return lr(arguments)


def _replay(arguments: argparse.Namespace) -> int:
    from lightning_tuning.cli.replay import replay  # noqa: PLC0415  # see above

    return replay(arguments)


def _rules(prefixes: Sequence[str] | None, style: str) -> int:
    rules = [rule for rule in CATALOGUE if not prefixes or rule.code.startswith(tuple(p.upper() for p in prefixes))]
    if prefixes and not rules:
        return _complain(f"No code starts with {' or '.join(prefixes)}. `lightning-tuning rules` lists them all.")
    if style == "markdown":
        sys.stdout.write(markdown_table(rules) + "\n")
        return 0
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, leading=1)
    for column in COLUMNS:
        table.add_column(column, no_wrap=column != "why")
    for rule in rules:
        code, name, severity, kind, why = _row(rule)
        table.add_row(Text(code, "bold"), Text(name), Text(severity, STYLES[rule.severity]), Text(kind), Text(why))
    return _say(table)


def _explain(asked: Sequence[str]) -> int:
    status = 0
    for name in asked:
        if name.lower() == WORD:
            _say(*optimizer_comparison(WIDEST))
            continue
        try:
            rule = CATALOGUE[name]
        except UnknownRuleError as unknown:
            status = _complain(str(unknown))
        else:
            _say(*_card(rule), Text())
    return status


def _card(rule: Rule) -> list[RenderableType]:
    card = Table.grid(padding=(0, 2, 1, 0))
    card.add_column(style="dim", no_wrap=True)
    card.add_column(overflow="fold", max_width=WIDEST - 10)
    for label, text in (
        ("kind", KINDS[rule.kind]),
        ("why", rule.why),
        ("remedy", rule.remedy),
        ("source", rule.source),
        ("since", rule.since),
        ("silence", f'TuningSuite(ignore=["{rule.code}"])'),
    ):
        card.add_row(Text(label), Text(text))
    causes: list[RenderableType] = [Text('evidence["cause"]', "bold"), _causes()] if rule.code in WITH_CAUSE else []
    heading = Text.assemble((f"{rule.code} {rule.name}", "bold"), ", ", (str(rule.severity), STYLES[rule.severity]))
    return [heading, Text(), card, *causes]


def _causes() -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("cause", no_wrap=True)
    table.add_column("what happened", max_width=34)
    table.add_column("what to change", max_width=WIDEST - 60)
    for name, cause in CAUSES.items():
        table.add_row(Text(name, "bold"), Text(cause.meaning), Text(cause.remedy))
    return table


def _row(rule: Rule) -> tuple[str, str, str, str, str]:
    return rule.code, rule.name, str(rule.severity), rule.kind, rule.gist


def _say(*renderables: RenderableType) -> int:
    print_beside_bars(Console(), *renderables)
    return 0


def _complain(sentence: str) -> int:
    sys.stderr.write(f"lightning-tuning: {sentence}\n")
    return 2
