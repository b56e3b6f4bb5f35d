"""The declarations of the rules, read without running the code of their verdicts."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_tuning.findings.catalogue import register
from lightning_tuning.findings.finding import Severity
from lightning_tuning.findings.rule import Rule

__all__ = ["declared_rules", "register_declared_rules"]

_FIELDS = tuple(field.name for field in dataclasses.fields(Rule))


def declared_rules(folder: Path) -> Iterator[Rule]:
    """Every ``Rule(...)`` that stands in the files of ``folder``, in the order of the file names.

    Verdicts import torch, which takes seconds; who only wants to read of a rule should not wait for it. A declaration
    is text and a severity, so it can be read off the source.

    Raises:
        ValueError: if an argument of a ``Rule`` is computed.

    Example:
        >>> import lightning_tuning
        >>> rules = {rule.code: rule for rule in declared_rules(Path(lightning_tuning.__file__).parent / "rules")}
        >>> rules["LT601"].name
        'exploding-gradient'
    """
    trees = [ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in sorted(folder.glob("*.py"))]
    shared = {name: text for tree in trees for name, text in _texts(tree)}
    for tree in trees:
        texts = shared | dict(_texts(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Rule":
                given = dict(zip(_FIELDS, node.args, strict=False))
                given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
                yield Rule(**{name: _value(argument, texts) for name, argument in given.items()})


@functools.cache  # sources do not change while they are used, and reading them all takes half a second
def register_declared_rules(folder: Path) -> None:
    """Fill the catalogue with :func:`declared_rules`; registered again by the verdicts, they stay what they are."""
    for rule in declared_rules(folder):
        register(rule)


def _texts(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The texts that a file gives a name to, for several declarations to share."""
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        ):
            yield node.targets[0].id, str(node.value.value)


def _value(node: ast.expr, texts: Mapping[str, str]) -> Any:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Severity":
        return Severity[node.attr]
    if isinstance(node, ast.Name) and node.id in texts:
        return texts[node.id]
    return ast.literal_eval(node)
