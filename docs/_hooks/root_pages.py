"""Pages made of files at the root of the repository."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["beginning_of_readme", "page_of"]

ROOT = Path(__file__).parents[2]

_LINK = re.compile(r"\[(`?[^\]]+`?)\]\((?:docs/([\w.-]+\.md)|(?!https?://|#)([^)]+))\)")


def page_of(name: str) -> str:
    """A Markdown file of the root as a page."""
    return _without_links((ROOT / name).read_text(encoding="utf-8"))


def beginning_of_readme() -> str:
    """The README up to its second chapter, without its title and what leads to it in other languages."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
    parts = [part for part in text.strip().split("\n\n") if not part.startswith("# ") and "](README" not in part]
    return _without_links("\n\n".join(parts)) + "\n"


def _without_links(text: str) -> str:
    """Links to pages of ``docs/`` as they are called from there; to files that the site has not, as their names."""
    return _LINK.sub(lambda link: f"[{link[1]}]({link[2]})" if link[2] else f"`{link[3]}`", text)
