"""The source of a case, taken apart: its two runs, and what they are made of."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cases import Case, case_files
from tests.cases import case as case_module

__all__ = ["CaseSource", "cases_of"]

ROOT = Path(inspect.getfile(case_module)).parents[2]
FIELDS = tuple(field.name for field in dataclasses.fields(Case))


class Module:
    """The source of a file, by the names that stand at its top."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shown = path.relative_to(ROOT).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self.defined: dict[str, ast.stmt] = {}
        self.imported: dict[str, str] = {}
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                self.defined[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.defined[node.targets[0].id] = node
            elif isinstance(node, ast.ImportFrom) and node.module:
                self.imported |= {alias.asname or alias.name: node.module for alias in node.names}

    def segment(self, node: ast.AST) -> str:
        """The text of ``node``, with its decorators."""
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])  # type: ignore[attr-defined]
        if isinstance(node, ast.expr):
            lines = (ast.get_source_segment(self.text, node, padded=True) or "").splitlines()
            return textwrap.dedent("\n".join([" " * node.col_offset + lines[0].lstrip(), *lines[1:]]))
        return "\n".join(self.text.splitlines()[first - 1 : node.end_lineno])  # type: ignore[attr-defined]

    @property
    def doc(self) -> str:
        """The docstring of the file."""
        return ast.get_docstring(self.tree) or ""


@functools.cache
def module(path: Path) -> Module:
    """The file at ``path``, read once."""
    return Module(path)


@dataclasses.dataclass(frozen=True)
class CaseSource:
    """A case and where it comes from.

    Attributes:
        case: itself.
        sick: the source of the run.
        healthy: likewise, of its twin.
        parts: pieces of source that the runs are made of, by the files they come from.
        helpers: names of ``tests/helpers.py`` that they use.
        doc: docstring of the file.
    """

    case: Case
    sick: str
    healthy: str
    parts: dict[str, list[str]]
    helpers: list[str]
    doc: str


def cases_of(code: str) -> list[CaseSource]:
    """The cases of a rule, in the order of its file."""
    found = []
    for path in case_files():
        if path.stem.startswith(code.lower()):
            held: list[Case] = importlib.import_module(f"tests.cases.{path.stem}").CASES
            source = module(path)
            entries = source.defined["CASES"].value.elts  # type: ignore[attr-defined]
            if len(entries) != len(held):
                raise ValueError(f"{source.shown}: CASES must be a list with an entry for each case.")
            found += [_taken_apart(case, source, entry) for case, entry in zip(held, entries, strict=True)]
    return found


def _taken_apart(case: Case, source: Module, entry: ast.expr) -> CaseSource:
    given: dict[str, ast.expr] = {}
    call = entry
    if isinstance(entry, ast.Call) and isinstance(entry.func, ast.Name) and entry.func.id != "Case":
        maker = source.defined[entry.func.id]
        given = _bound([argument.arg for argument in maker.args.args], entry)  # type: ignore[attr-defined]
        call = next(n for n in ast.walk(maker) if isinstance(n, ast.Call) and _name(n.func) == "Case")
    fields = _bound(FIELDS, call)
    runs = {}
    for field in ("sick", "healthy"):
        run = fields[field]
        runs[field] = given.get(run.id, run) if isinstance(run, ast.Name) else run
    parts: dict[str, list[str]] = {}
    helpers: dict[str, None] = {}
    for run in runs.values():
        for owner, name in _used(source, run, set()):
            if owner is None:
                helpers[name] = None
            elif (text := owner.segment(owner.defined[name])) not in parts.setdefault(owner.shown, []):
                parts[owner.shown].append(text)
    for file, texts in parts.items():  # in the order of the file
        whole = module(ROOT / file).text
        texts.sort(key=whole.index)
    sick, healthy = (source.segment(runs[field]) for field in ("sick", "healthy"))
    return CaseSource(case, sick, healthy, parts, list(helpers), source.doc)


def _bound(names: Any, call: ast.expr) -> dict[str, ast.expr]:
    """The arguments of ``call`` by their names."""
    if not isinstance(call, ast.Call):
        return {}
    return dict(zip(names, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _used(source: Module, node: ast.AST, seen: set[tuple[str, str]]) -> Iterator[tuple[Module | None, str]]:
    """Names at the top of files of cases that ``node`` uses, and those they use; of the helpers by name alone."""
    for name in dict.fromkeys(n.id for n in ast.walk(node) if isinstance(n, ast.Name)):
        home = source.imported.get(name, "")
        if (source.shown, name) in seen:
            continue
        seen.add((source.shown, name))
        if name in source.defined:
            yield source, name
            yield from _used(source, source.defined[name], seen)
        elif home == "tests.helpers":
            yield None, name
        elif home.startswith("tests.cases.") and home != "tests.cases.case":
            owner = module(ROOT / f"{home.replace('.', '/')}.py")
            if (owner.shown, name) not in seen:
                seen.add((owner.shown, name))
                yield owner, name
                yield from _used(owner, owner.defined[name], seen)
