"""What the site is made of besides the pages in ``docs/``: generated when it is built, never checked in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]  # this folder and the repository, for `tests.cases`

from callback_pages import callback_page, callbacks_page  # noqa: E402
from command_pages import command_page  # noqa: E402
from function_pages import functions  # noqa: E402
from linking import linked  # noqa: E402
from public import public, rooms, title  # noqa: E402
from root_pages import beginning_of_readme, page_of  # noqa: E402
from rule_pages import HUNDREDS, SHORT, address, helpers_page, rule_page, rules_page  # noqa: E402

from lightning_tuning import CATALOGUE  # noqa: E402

TARGETS = {rule.code: address(rule.code) for rule in CATALOGUE} | {name: one.page for name, one in public().items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the rules and the callbacks into the navigation."""
    for entry in config.nav or []:
        if isinstance(entry, dict) and "Rules" in entry:
            entry["Rules"] = [
                "rules/index.md",
                *(
                    {f"{hundred}xx {SHORT.get(hundred, full)}": _rules_of(hundred)}
                    for hundred, full in HUNDREDS.items()
                ),
                {"The nets of the examples": "rules/examples.md"},
            ]
        if isinstance(entry, dict) and "Callbacks" in entry:
            entry["Callbacks"] = [
                "callbacks/index.md",
                *({title(room): [{one.name: one.page} for one in names]} for room, names in rooms().items()),
            ]
    return config


def _rules_of(hundred: str) -> list[dict[str, str]]:
    return [{f"{rule.code} {rule.name}": address(rule.code)} for rule in CATALOGUE.matching(hundred)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "rules/index.md": rules_page(),
        "rules/examples.md": helpers_page(),
        "callbacks/index.md": callbacks_page(),
        "command-line.md": command_page(),
        "contributing.md": page_of("CONTRIBUTING.md"),
        "changelog.md": page_of("CHANGELOG.md"),
        **{address(rule.code): rule_page(rule) for rule in CATALOGUE},
        **{one.page: callback_page(one) for one in public().values()},
    }
    for source, content in pages.items():
        files.append(File.generated(config, source, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put in what a page asks for by a comment; a page without neighbours needs no list of them."""
    if page.parent is None:
        page.meta.setdefault("hide", []).append("navigation")
    for asked, given in {"<!-- README -->": beginning_of_readme, "<!-- functions -->": functions}.items():
        if asked in markdown:
            markdown = markdown.replace(asked, given())
    return markdown


def on_page_content(html: str, page: Page, files: Files, **_: Any) -> str:
    """Link codes and names to their pages."""
    own = page.file.src_uri

    def url(target: str) -> str:
        return get_relative_url(files.src_uris[target].url, page.url)

    return linked(html, {name: target for name, target in TARGETS.items() if target != own}, url)
