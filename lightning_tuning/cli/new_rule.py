"""``lightning-tuning new-rule LT614 name``: the files of a new rule of thumb, in a checkout of the repository."""

from __future__ import annotations

import argparse
import ast
import keyword
import os
import re
import string
import sys
import uuid
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from lightning_tuning.findings import CATALOGUE
from lightning_tuning.findings.declarations import declared_rules

__all__ = ["RefusedError", "add_new_rule_arguments", "new_rule", "scaffold", "write_all"]

_LONGEST = 36  # characters of a name: lines of the templates stay below the 120 of the house
_TEMPLATES = resources.files("lightning_tuning.cli") / "templates"
_SPEAKERS = {"check": ("checks", "Check"), "monitor": ("monitors", "Monitor"), "none": ("", "")}

_EPILOG = """\
exit status:
  0  the files are written, or shown with --dry-run
  2  none is: a code or a name that cannot be had, no checkout, or a file in the way

examples:
  lightning-tuning new-rule LT699 loss-too-quiet
  lightning-tuning new-rule LT699 loss-too-quiet --speaker check --dry-run

What is written works and passes its tests; what is to be filled in is marked
TODO(rule), and the steps that are left are told.
"""


class RefusedError(ValueError):
    """There cannot be such a rule, or not there; says why."""


def add_new_rule_arguments(commands: Any) -> None:
    """Add the parser of the command to the subparsers ``commands``."""
    command = commands.add_parser(
        "new-rule",
        help="write the files of a new rule, in a checkout of the repository",
        description="Write the files of a new rule into a checkout of lightning-tuning: its declaration with a\n"
        "pure verdict, a table of readings as its test, and a sick run with its healthy twin.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("code", metavar="CODE", help="LT and three digits, as LT614; never one that was in use")
    command.add_argument("name", metavar="NAME", help="what is wrong, in kebab case: exploding-gradient")
    command.add_argument(
        "--speaker",
        choices=tuple(_SPEAKERS),
        default="none",
        help="also write a callback that says it: one that looks once, or at each step. With none the case has one of "
        "its own, until a callback that there is says it (default: %(default)s)",
    )
    command.add_argument("--root", metavar="PATH", help="of the checkout (default: the one around the current folder)")
    command.add_argument("--dry-run", action="store_true", help="print the files instead of writing them")


def new_rule(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return its exit status."""
    try:
        root = _checkout(arguments.root)
        files = scaffold(root, arguments.code, arguments.name, arguments.speaker)
        if not arguments.dry_run:
            write_all(root, files)
    except (RefusedError, OSError) as error:
        sys.stderr.write(f"lightning-tuning: {error}\n")
        return 2
    for path, text in files.items():
        sys.stdout.write(f"# {path}\n{text}\n" if arguments.dry_run else f"{path}\n")
    if not arguments.dry_run:
        sys.stdout.write("\n" + _next_steps(root, arguments.code, arguments.name, arguments.speaker))
    return 0


def scaffold(root: Path, code: str, name: str, speaker: str = "none") -> dict[Path, str]:
    """The files of a new rule, by their paths within the checkout ``root``; nothing is written.

    Args:
        root: of a checkout of lightning-tuning.
        code: ``LT`` and three digits, in a block of a hundred that there is; never in use before.
        name: kebab case, beginning with a letter, 36 characters at most.
        speaker: ``"check"`` or ``"monitor"`` for a callback that says it, ``"none"`` (default) for none.

    Raises:
        RefusedError: if the code or the name cannot be had, or one of the files is there already.
    """
    _refuse(root, code, name)
    words = _words(code, name, speaker)
    module, room = words["module"], words["room"]
    made = {
        Path("lightning_tuning", "rules", f"{module}.py"): "rule.py",
        Path("tests", "rules", f"test_{module}.py"): "test.py",
        Path("tests", "cases", f"{code.lower()}_{module}.py"): "case.py" if room else "case_alone.py",
    }
    if room:
        made[Path("lightning_tuning", room, f"_{module}.py")] = f"{speaker}.py"
    for path in made:
        if (root / path).exists():
            raise RefusedError(f"{path} is there already, and would not be overwritten; nothing was written.")
    return {
        path: string.Template((_TEMPLATES / f"{template}.tmpl").read_text(encoding="utf-8")).substitute(words)
        for path, template in made.items()
    }


def write_all(root: Path, files: Mapping[Path, str]) -> None:
    """Write all of ``files`` or none; a file that has come up meanwhile is not touched.

    Raises:
        OSError: if one cannot be written; all others are taken back then.
    """
    drafts = {root / path: (root / path).with_name(f".{path.stem}.{uuid.uuid4().hex}.part") for path in files}
    made: list[Path] = []
    try:
        for (path, draft), text in zip(drafts.items(), files.values(), strict=True):
            draft.write_text(text, encoding="utf-8", newline="\n")
            os.link(draft, path)  # where a rename would overwrite
            made.append(path)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def _words(code: str, name: str, speaker: str) -> dict[str, str]:
    """What stands in the templates for ``$code`` and so on."""
    room, kind = _SPEAKERS[speaker]
    title = "".join(part.capitalize() for part in name.split("-")) + kind
    return {"code": code, "name": name, "module": name.replace("-", "_"), "room": room, "title": title}


def _checkout(given: str | None) -> Path:
    folders = [Path(given)] if given is not None else [Path.cwd(), *Path.cwd().parents]
    for folder in folders:
        parts = (folder / "lightning_tuning" / "rules", folder / "tests" / "cases", folder / "tests" / "rules")
        if all(part.is_dir() for part in parts):
            return folder
    where = f"`--root` {given} is" if given is not None else f"{Path.cwd()} is in"
    raise RefusedError(
        f"{where} no checkout of lightning-tuning, which has lightning_tuning/rules, tests/cases and tests/rules: "
        "a rule is made in the repository. `--root` names it."
    )


def _refuse(root: Path, code: str, name: str) -> None:
    """Raise if there can be no rule of that code and name."""
    rules = {rule.code: rule.name for rule in declared_rules(root / "lightning_tuning" / "rules")}
    if not re.fullmatch(r"LT\d{3}", code):
        raise RefusedError(f"`CODE` must be 'LT' and three digits, got {code!r}.")
    blocks = sorted({known[:3] for known in rules})
    if code[:3] not in blocks:
        raise RefusedError(f"`CODE` must be in a block of a hundred that there is ({', '.join(blocks)}), got {code!r}.")
    retired = _retired(root) | {known for known in (code,) if known in CATALOGUE and CATALOGUE[known].code != known}
    if code in retired:
        raise RefusedError(f"`CODE` {code} is retired: codes are never reused. {_free(code, rules, retired)}")
    if code in rules or (cases := list((root / "tests" / "cases").glob(f"{code.lower()}_*.py"))):
        owner = rules[code] if code in rules else f"the case {cases[0].name}"
        raise RefusedError(f"`CODE` {code} is that of {owner}. {_free(code, rules, retired)}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise RefusedError(f"`NAME` must be in kebab case (exploding-gradient), and no word of Python, got {name!r}.")
    if len(name) > _LONGEST:
        raise RefusedError(f"`NAME` must have at most {_LONGEST} characters, got {name!r} with {len(name)}.")
    if name in rules.values():
        owner = next(known for known, taken in rules.items() if taken == name)
        raise RefusedError(f"`NAME` {name} is that of {owner}: names are unique.")


def _free(code: str, rules: Mapping[str, str], retired: set[str]) -> str:
    taken = {int(known[2:]) for known in (*rules, *retired) if known[:3] == code[:3]}
    block, highest = int(code[2]) * 100, max(taken)
    free = next(
        (number for number in (*range(highest + 1, block + 100), *range(block, highest)) if number not in taken), None
    )
    return f"Free is LT{free}." if free is not None else f"{code[:3]}xx has no code left."


def _retired(root: Path) -> set[str]:
    """The codes that the rules of ``root`` retire: ``CATALOGUE.retire("LT614", successor="LT615")``."""
    calls = (
        node
        for path in (root / "lightning_tuning" / "rules").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "retire"
    )
    return {str(call.args[0].value) for call in calls if call.args and isinstance(call.args[0], ast.Constant)}


def _next_steps(root: Path, code: str, name: str, speaker: str) -> str:
    words = _words(code, name, speaker)
    module, room, title = words["module"], words["room"], words["title"]
    if room:
        speak = f"""\
{title} is not public, and not in the suite:
   let a callback that looks at the same things say it, or take the underscore off the name of its file and name it in
   lightning_tuning/{room}/__init__.py, lightning_tuning/__init__.py, the recommended set and the table of README.md."""
    else:
        speak = "Let a check, monitor, guard or treatment of the suite say it, in place of the one in the case."
    made = "Put what `lightning-tuning rules --format markdown` prints between the markers in README.md."
    if (root / "docs" / "_generated.py").is_file():
        made += "\n   python docs/_generated.py"
    if (root / "tests" / "cases" / "__main__.py").is_file():  # what each case gives is written down there
        made += f"\n   python -m tests.cases {code}"
    return f"""\
Next:
1. Fill in what `grep -rn "TODO(rule)" lightning_tuning tests` finds; the example judges a learning rate.
2. {speak}
3. {made}
4. python -m pytest tests/rules/test_{module}.py
   python -m pytest tests/contracts/test_cases.py -k {code}
   python -m pytest tests/quiet
5. Of a warning or an error lightning_tuning/rules/_suspects.py says what it explains, or that it explains nothing.
6. Add a line to CHANGELOG.md, and run `make test`.
"""
