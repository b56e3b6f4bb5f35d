"""Lines of text on a terminal where a progress bar is at work."""

from __future__ import annotations

import contextlib
import sys

from rich.console import Console, RenderableType

__all__ = ["print_beside_bars"]


def print_beside_bars(console: Console, *renderables: RenderableType) -> None:
    r"""Print whole lines above whatever progress bar is being drawn, and leave the bar as it was.

    - A live display of rich (``RichProgressBar``) puts a proxy in the place of ``sys.stdout`` that prints above itself.
      A ``Console`` writes to the file *behind* that proxy, into the midst of the bars: the text has to go through it.
    - tqdm (``TQDMProgressBar``) offers to wipe its bars and to draw them again.

    A character that the encoding of the terminal lacks is shown by its escape (``caf\xe9``) and does not end the run.

    Args:
        console: where to print and how: width, colors, encoding.
        renderables: each is printed as ``console.print`` would.

    Example:
        >>> print_beside_bars(Console(), "[b]LT601[/b] exploding-gradient")
        LT601 exploding-gradient
    """
    with console.capture() as capture:
        for renderable in renderables:
            console.print(renderable)
    text = "\n".join(line.rstrip() for line in capture.get().split("\n"))
    text = text.encode(console.encoding, "backslashreplace").decode(console.encoding)
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "rich_proxied_file", None) is console.file:
            stream.write(text)
            return
    with _tqdm_aside():
        console.file.write(text)
        console.file.flush()


def _tqdm_aside() -> contextlib.AbstractContextManager[object]:
    # Looked up, not imported: where nobody has loaded tqdm there is no bar of it.
    tqdm = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    return contextlib.nullcontext() if tqdm is None else tqdm.external_write_mode()
