"""The file that declares a rule, and what its verdicts say of themselves."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from case_source import ROOT
from texts import as_markdown, without_sphinx

import lightning_tuning.rules
from lightning_tuning import Rule

__all__ = ["RuleSource", "source_of"]

_VERDICT = re.compile(r"^(\w+(Judge|Updates|Order) |\w+ (One|A|At most one) (finding|error)\b)")


class RuleSource:
    """The file that declares a rule."""

    def __init__(self, path: Path) -> None:
        self.shown = path.relative_to(ROOT).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.module = importlib.import_module(f"lightning_tuning.rules.{path.stem}")
        self.doc = " ".join((self.module.__doc__ or "").split("\n\n")[0].split())

    def declares(self, rule: Rule) -> bool:
        """Whether the declaration stands in it."""
        return f'"{rule.code}"' in self.text and rule in vars(self.module).values()

    def verdicts(self, rule: Rule) -> Iterator[str]:
        """What its verdicts say of themselves, before the details of their arguments."""
        names = [name for name in self.module.__all__ if _home(getattr(self.module, name)) == self.module.__name__]
        docs = {name: inspect.getdoc(getattr(self.module, name)) or "" for name in names}
        telling = [doc for name, doc in docs.items() if rule.code in doc or _VERDICT.search(f"{name} {doc}")]
        for doc in telling or docs.values():
            yield "\n\n".join(_prose(doc)) + "\n"


def _home(value: object) -> str:
    return str(getattr(value, "__module__", "")) if callable(value) else ""


def _prose(doc: str) -> Iterator[str]:
    """The paragraphs of a docstring before its first section."""
    for paragraph in doc.split("\n\n"):
        if re.match(r"(Args|Returns|Yields|Raises|Attributes|Example|Source):", paragraph):
            return
        is_list = paragraph.startswith(("- ", "  "))
        yield without_sphinx(paragraph) if is_list else as_markdown(" ".join(paragraph.split()))


@functools.cache
def _sources() -> list[RuleSource]:
    names = [info.name for info in pkgutil.iter_modules(lightning_tuning.rules.__path__)]
    return [RuleSource(Path(next(iter(lightning_tuning.rules.__path__)), f"{name}.py")) for name in names]


def source_of(rule: Rule) -> RuleSource:
    """The file in ``rules/`` that declares ``rule``."""
    return next(source for source in _sources() if source.declares(rule))
