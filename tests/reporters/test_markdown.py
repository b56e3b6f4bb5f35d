"""Findings as Markdown: read back by two parsers of different dialects, one of them TensorBoard's."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable

import markdown
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lightning_tuning.findings import Diagnosis, Finding, Severity, Suspect, Verdict
from lightning_tuning.reporters.markdown import code, finding_markdown, prose, summary_markdown
from lightning_tuning.reporters.rows import COLUMNS, csv_text

FOUND = Finding(
    "LT601",
    "exploding-gradient",
    Severity.WARNING,
    "norm 310.0 > 10 x median of `net.0`",
    where="net.0",
    source_line="mnist.py:41",
    remedy="`Trainer(gradient_clip_val=1.9)`",
    step=812,
    last_step=990,
    count=37,
    evidence={"norm": math.inf},
)

DIALECTS: dict[str, Callable[[str], str]] = {
    "CommonMark": MarkdownIt("commonmark").render,
    "forges": MarkdownIt("js-default", {"html": True}).render,  # tables and strikethrough
    "TensorBoard": lambda text: markdown.markdown(text, extensions=["tables", "fenced_code"]),
}
TAG = re.compile(r"<[^>]*>")
WRITTEN = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=40) | st.text(
    "ab1 .-+#=*_`~|\\<>&[]()!:$", max_size=20
)


def shown(page: str) -> str:
    return " ".join(html.unescape(TAG.sub("", page)).split())


@pytest.mark.parametrize("dialect", DIALECTS)
@given(text=WRITTEN)
def test_prose_reads_as_it_is_written(dialect: str, text: str) -> None:
    page = DIALECTS[dialect](prose(text))
    assert set(TAG.findall(page)) <= {"<p>", "</p>", "<code>", "</code>"}
    marks = re.sub(r"`([^`]+)`", lambda match: match.group(1), " ".join(text.split()))
    assert shown(page).replace(" ", "") == marks.replace(" ", "")


@pytest.mark.parametrize("dialect", DIALECTS)
@given(text=WRITTEN)
def test_code_is_code(dialect: str, text: str) -> None:
    page = DIALECTS[dialect](f"at {code(text)}.").strip()
    words = " ".join(text.split())
    assert page.startswith("<p>at <code>" if words else "<p>at")
    assert set(TAG.findall(page)) <= {"<p>", "</p>", "<code>", "</code>"}
    assert shown(page).replace(" ", "") == f"at{words}.".replace(" ", "")


def test_a_finding_is_a_heading_and_paragraphs() -> None:
    page = DIALECTS["CommonMark"](finding_markdown(FOUND))
    assert page.splitlines() == [
        "<h3>warning LT601 exploding-gradient</h3>",
        "<p>at <code>net.0</code> (<code>mnist.py:41</code>), x37, steps 812-990</p>",
        "<p>norm 310.0 &gt; 10 x median of <code>net.0</code></p>",
        "<p><strong>Remedy:</strong> <code>Trainer(gradient_clip_val=1.9)</code></p>",
        "<p>More: <code>lightning-tuning explain LT601</code></p>",
    ]


def test_a_finding_with_nothing_but_a_message() -> None:
    text = finding_markdown(Finding("LT701", "non-finite-loss", Severity.ERROR, "the loss is nan"), level=2)
    assert text == ("## error LT701 non-finite-loss\n\nthe loss is nan\n\nMore: `lightning-tuning explain LT701`\n")


def test_a_line_alone_is_a_place() -> None:
    found = Finding("LT904", "unseeded-run", Severity.INFO, "no seed", source_line="train.py:3")
    assert "\n\nat `train.py:3`\n\n" in finding_markdown(found)


def test_the_summary_tells_everything() -> None:
    diagnosis = Diagnosis("the run did not learn", (Suspect(FOUND, "it <leaps>"),))
    verdicts = [Verdict("overfit one batch", "failed", "loss 1.1 -> .76", code="LT110"), Verdict("a", "passed", "b")]
    page = DIALECTS["CommonMark"](summary_markdown([FOUND], ["2 of 312 updates dropped"], diagnosis, verdicts))
    assert page.startswith("<h1>lightning-tuning: 1 warning</h1>\n<p><strong>the run did not learn; likely causes")
    assert re.search(r"<ol>\s*<li>LT601 exploding-gradient at net.0 .*it &lt;leaps&gt;\)</li>\s*</ol>", page)
    assert "<h2>warning LT601 exploding-gradient</h2>" in page
    assert "<li><strong>failed</strong>: overfit one batch LT110: loss 1.1 -&gt; .76</li>" in page
    assert page.endswith("<h2>What was done</h2>\n<ul>\n<li>2 of 312 updates dropped</li>\n</ul>\n")


def test_a_diagnosis_without_suspects_is_one_sentence() -> None:
    page = DIALECTS["CommonMark"](summary_markdown([], diagnosis=Diagnosis("the run did not learn")))
    assert "<ol>" not in page
    assert "<strong>the run did not learn; no finding explains it: <code>Preflight()</code> tries" in page


def test_rows_are_read_back_from_csv() -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text([FOUND])))
    assert list(row) == list(COLUMNS)
    assert set(row) == set(FOUND.to_dict())
    assert (row["code"], row["count"], row["epoch"]) == ("LT601", "37", "")
    assert json.loads(row["evidence"]) == {"norm": "inf"}
