"""The form that findings have in each kind of logger."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_tuning.findings import Finding
from lightning_tuning.reporters.markdown import finding_markdown
from lightning_tuning.reporters.rows import COLUMNS, csv_text, row
from lightning_tuning.reporters.words import counts
from lightning_tuning.runtime.whole_file import write_whole

__all__ = ["Page", "tell"]

PLACE = "lightning_tuning"
"""Where findings are, in tags, keys and artifact folders."""


@dataclasses.dataclass(frozen=True)
class Page:
    """What there is to tell.

    Attributes:
        step: the loggers' step.
        findings: all so far, worst first.
        text: all of it as Markdown.
        finding: the one that has just come; ``None``: the run is over.
    """

    step: int
    findings: Sequence[Finding]
    text: str
    finding: Finding | None


@functools.singledispatch
def tell(logger: Logger, page: Page) -> None:
    """Tell ``logger`` of the findings, in the form that its kind has for text.

    ===================  ====================================================================================
    ``TensorBoard``      each as a text ``lightning_tuning/LT601-exploding-gradient`` at its step, and
                         ``lightning_tuning/summary`` at the end
    ``Wandb``            the table ``lightning_tuning/findings``, a new version with each of them, and the page
                         ``lightning_tuning/summary`` at the end
    ``MLFlow``           the artifact ``lightning_tuning/findings.md``, written anew with each of them; tags
                         ``lightning_tuning.error`` (``warning``, ``info``) with their numbers and
                         ``lightning_tuning.codes`` with their codes, to search runs by
    ``CSV``              ``lightning_tuning_findings.csv``, a line for each, and ``lightning_tuning_findings.md`` to
                         read, beside ``metrics.csv``; written anew with each of them
    ===================  ====================================================================================

    A logger of any other kind, for which nobody here knows what it does with text, is told nothing.

    Args:
        logger: any.
        page: what there is to tell.
    """


@tell.register
def _(logger: TensorBoardLogger, page: Page) -> None:
    if page.finding is None:
        logger.experiment.add_text(f"{PLACE}/summary", page.text, page.step)
    else:  # TensorBoard shows ten texts of a tag: one for each rule
        tag = f"{PLACE}/{page.finding.code}-{page.finding.name}"
        logger.experiment.add_text(tag, finding_markdown(page.finding), page.step)


@tell.register
def _(logger: WandbLogger, page: Page) -> None:
    if page.findings:
        logger.log_table(
            f"{PLACE}/findings", list(COLUMNS), [row(finding) for finding in page.findings], step=page.step
        )
    if page.finding is None:
        logger.log_metrics({f"{PLACE}/summary": _wandb_page(page.text)}, page.step)


@tell.register
def _(logger: MLFlowLogger, page: Page) -> None:
    from mlflow.entities import RunTag  # noqa: PLC0415  # whoever has the logger has the library

    numbers = {f"{PLACE}.{severity}": str(count) for severity, count in counts(page.findings).items()}
    codes = " ".join(sorted({finding.code for finding in page.findings})) or "none"  # not all stores take ""
    tags = [RunTag(name, value) for name, value in {**numbers, f"{PLACE}.codes": codes}.items()]
    logger.experiment.log_text(logger.run_id, page.text, f"{PLACE}/findings.md")
    logger.experiment.log_batch(logger.run_id, tags=tags)


@tell.register
def _(logger: CSVLogger, page: Page) -> None:
    for ending, text in {"csv": csv_text(page.findings), "md": page.text}.items():
        _write(f"{logger.log_dir}/{PLACE}_findings.{ending}", text)


def _wandb_page(text: str) -> Any:
    import wandb  # noqa: PLC0415  # whoever has the logger has the library
    from markdown_it import MarkdownIt  # noqa: PLC0415  # as costly as all of this file

    # Not W&B's own style sheet, which the page would fetch from the network.
    page = f"<style>body {{ font-family: sans-serif }}</style>\n{MarkdownIt('commonmark').render(text)}"
    return wandb.Html(io.StringIO(page), inject=False)


def _write(path: str, text: str) -> None:
    files, name = url_to_fs(path)  # a CSVLogger may write to a store elsewhere, where a file is there whole or not
    if isinstance(files, LocalFileSystem):
        write_whole(Path(name), functools.partial(_fill, text.encode()))
    else:
        files.pipe_file(name, text.encode())


def _fill(content: bytes, draft: Path) -> None:
    draft.write_bytes(content)
