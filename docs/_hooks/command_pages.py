"""The page on the command line, made from its parsers."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator

from texts import as_markdown, fenced, sentence

from lightning_tuning.cli import _parser

__all__ = ["command_page"]


def command_page() -> str:
    """Every command with its arguments."""
    parser = _parser()
    parts = ["# Command line\n", f"{as_markdown(parser.description or '')}\n"]
    commands = _subcommands(parser)
    helps = {choice.dest: choice.help for action in _subparsers(parser) for choice in action._choices_actions}
    parts.append(
        "\n".join(f"- [`{parser.prog} {name}`](#{name}): {as_markdown(helps.get(name) or '')}" for name in commands)
    )
    parts.append("")
    parts += _arguments(parser)
    for name, command in commands.items():
        parts += [
            f"## {name} {{ #{name} }}\n",
            f"{sentence(' '.join((command.description or helps[name]).split()))}\n",
        ]
        parts += [fenced(_usage(command), "text"), *_arguments(command)]
        if command.epilog:
            parts.append(fenced(command.epilog, "text"))
    return "\n".join(parts)


def _usage(command: argparse.ArgumentParser) -> str:
    command.formatter_class = functools.partial(argparse.HelpFormatter, width=78)  # not that of who builds the site
    return command.format_usage().removeprefix("usage: ")


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        shown = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        if action.choices is not None:
            shown = "{" + ",".join(map(str, action.choices)) + "}"
        names = ", ".join(action.option_strings)
        takes = f" {shown}" if action.nargs != 0 else ""
        described = (action.help or "") % {**vars(action), "prog": parser.prog}
        rows.append(f"| `{(names + takes).strip()}` | {as_markdown(described)} |".replace("{,", "{"))
    if rows:
        yield "\n".join(["| argument | |", "| --- | --- |", *rows]) + "\n"


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[argparse._SubParsersAction[argparse.ArgumentParser]]:
    yield from (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {name: command for action in _subparsers(parser) for name, command in action.choices.items()}
