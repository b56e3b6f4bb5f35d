"""The site, built once for all tests of it, in a process that cannot reach the network."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]

NO_NETWORK = """\
import socket

def refuse(self, address, *_):
    raise OSError(f"the site is built without the network, but {address} was asked")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda *address, **_: refuse(None, address)
"""


@dataclasses.dataclass(frozen=True)
class Element:
    """A tag of a page, with its attributes."""

    tag: str
    attributes: dict[str, str]


class Html(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.pieces: list[str] = []
        self.is_shown = True
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attributes}))
        self.is_shown = tag not in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.is_shown = True

    def handle_data(self, data: str) -> None:
        if self.is_shown:
            self.pieces.append(data)

    @functools.cached_property
    def text(self) -> str:
        return "".join(self.pieces)

    @functools.cached_property
    def ids(self) -> set[str]:
        return {element.attributes["id"] for element in self.elements if "id" in element.attributes}


@dataclasses.dataclass(frozen=True)
class Site:
    """The folder that was built; addresses are those of a server, ``"rules/LT601/"``."""

    folder: Path

    @functools.cached_property
    def pages(self) -> dict[str, Html]:
        """By address; without the page of a server's error 404, whose links begin at a root that nobody knows yet."""
        files = (path for path in self.folder.rglob("*.html") if path.name != "404.html")
        return {self.address(path): Html(path.read_text(encoding="utf-8")) for path in sorted(files)}

    def address(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix().removesuffix("index.html")

    def target(self, page: str, link: str) -> tuple[str, str]:
        """Address and fragment that ``link`` leads to from ``page``."""
        parts = urlsplit(link)
        path = os.path.normpath(self.folder / page / unquote(parts.path)) if parts.path else self.folder / page
        is_folder = Path(path).is_dir()
        return self.address(Path(path) / "index.html" if is_folder else Path(path)), unquote(parts.fragment)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    # The workers of pytest-xdist have a folder each below one that they share; the first to come builds for all.
    mine = tmp_path_factory.getbasetemp()
    shared = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine
    folder, blocker = shared / "site", shared / "no_network"
    with FileLock(shared / "site.lock"):
        if not folder.exists():
            blocker.mkdir(exist_ok=True)
            (blocker / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
            environment = {**os.environ, "PYTHONPATH": f"{blocker}{os.pathsep}{ROOT}", "NO_MKDOCS_2_WARNING": "1"}
            command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
            built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert built.returncode == 0, built.stdout + built.stderr
    return Site(folder)
