"""Pages made of files at the root of the repository."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["beginning_of_readme", "page_of"]

ROOT = Path(__file__).parents[2]


def page_of(name: str) -> str:
    """A Markdown file of the root as a page."""
    return _without_links((ROOT / name).read_text(encoding="utf-8"))


def beginning_of_readme() -> str:
    """The README up to its second chapter."""
    text = _without_links((ROOT / "README.md").read_text(encoding="utf-8"))
    return text.split("\n## ")[0].partition("\n")[2].strip() + "\n"


def _without_links(text: str) -> str:
    """Links into the repository as the names of files: the site holds none of them."""
    return re.sub(r"\[(`?[^\]]+`?)\]\((?!https?://|#)([^)]+)\)", lambda link: f"`{link[2]}`", text)
