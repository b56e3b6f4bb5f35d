"""Findings as Markdown, for whatever shows it: TensorBoard, MLflow, a forge, a notebook.

Only what CommonMark and its dialects agree on: headings, paragraphs, lists, code. No HTML, and none gets through: what
a finding says of the user's code is shown as it is written there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lightning_tuning.findings import Diagnosis, Finding, Verdict
from lightning_tuning.reporters.words import counted

__all__ = ["code", "finding_markdown", "prose", "summary_markdown"]

_CODE = re.compile(r"(`[^`]+`)")
_SPECIAL = re.compile(r"[\\`*_\[\]]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "~": "&#126;", "|": "&#124;"}  # no dialect takes these otherwise
_NUMBER = re.compile(r"\d+(?=[.)])")


def finding_markdown(finding: Finding, level: int = 3) -> str:
    """``finding`` under a heading of its own: what, where, when, what to change, how to read more.

    Args:
        finding: any.
        level: of the heading, 1 to 6.

    Example:
        >>> from lightning_tuning.findings import Severity
        >>> found = Finding(
        ...     "LT601",
        ...     "exploding-gradient",
        ...     Severity.WARNING,
        ...     "norm 310.0 > 10 x median",
        ...     where="net.0",
        ...     source_line="mnist.py:41",
        ...     remedy="`Trainer(gradient_clip_val=1.9)`",
        ...     step=812,
        ... )
        >>> print(finding_markdown(found))
        ### warning LT601 exploding-gradient
        <BLANKLINE>
        at `net.0` (`mnist.py:41`), step 812
        <BLANKLINE>
        norm 310.0 &gt; 10 x median
        <BLANKLINE>
        **Remedy:** `Trainer(gradient_clip_val=1.9)`
        <BLANKLINE>
        More: `lightning-tuning explain LT601`
        <BLANKLINE>
    """
    return "\n\n".join(_paragraphs(finding, level)) + "\n"


def summary_markdown(
    findings: Sequence[Finding],
    notes: Sequence[str] = (),
    diagnosis: Diagnosis | None = None,
    verdicts: Sequence[Verdict] = (),
) -> str:
    """All that a run has to say, as one document: how it went wrong, what was found, what was tried and done.

    Args:
        findings: in the order in which they are to be told.
        notes: what guards and treatments did.
        diagnosis: of a run that went wrong.
        verdicts: of the trials before it.

    Example:
        >>> print(summary_markdown([], notes=["PlateauLR cut lr to 0.01 at step 40"]))
        # lightning-tuning: no findings
        <BLANKLINE>
        ## What was done
        <BLANKLINE>
        - PlateauLR cut lr to 0.01 at step 40
        <BLANKLINE>
    """
    blocks = [f"# lightning-tuning: {counted(findings)}"]
    if diagnosis is not None:
        outcome, *suspects = diagnosis.lines()
        blocks.append(f"**{prose(outcome)}**")
        listed = (line.partition(". ")[2] for line in suspects)
        blocks += ["\n".join(f"{number}. {prose(line)}" for number, line in enumerate(listed, start=1))] * bool(
            suspects
        )
    for finding in findings:
        blocks += _paragraphs(finding, level=2)
    if verdicts:
        blocks += ["## Preflight", "\n".join(_verdict(verdict) for verdict in verdicts)]
    if notes:
        blocks += ["## What was done", "\n".join(f"- {prose(note)}" for note in notes)]
    return "\n\n".join(blocks) + "\n"


def prose(text: str) -> str:
    r"""``text`` as one line that reads as it is written, except that what stands between backticks is code.

    Example:
        >>> print(prose("feeds `net.0`: <b> is *no* tag"))
        feeds `net.0`: &lt;b&gt; is \*no\* tag
        >>> print(prose("# 3. no heading"), prose("3. no list"))
        \# 3. no heading 3\. no list
    """
    parts = _CODE.split(" ".join(text.split()))
    # Every second part is code, and stays code unless a backslash of the text before it would take its backtick away.
    written = "".join(code(part[1:-1]) if number % 2 else _escaped(part) for number, part in enumerate(parts))
    if (number := _NUMBER.match(written)) is not None:
        return f"{number.group()}\\{written[number.end() :]}"
    return f"\\{written}" if written[:1] in tuple("-+#") else written


def code(text: str) -> str:
    """``text`` as code, in as many backticks as it needs.

    Example:
        >>> code("net.0"), code("a`b")
        ('`net.0`', '`` a`b ``')
    """
    text = " ".join(text.split())
    if not text:
        return ""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, room = "`" * (longest + 1), " " * bool(longest)
    return f"{fence}{room}{text}{room}{fence}"


def _paragraphs(finding: Finding, level: int) -> Iterator[str]:
    yield f"{'#' * level} {finding.severity} {finding.code} {prose(finding.name)}"
    place = f"at {code(finding.where)}" if finding.where else ""
    if finding.source_line:
        place = f"{place} ({code(finding.source_line)})" if place else f"at {code(finding.source_line)}"
    if seen := ", ".join(part for part in (place, finding.steps()) if part):
        yield seen
    yield prose(finding.message)
    if finding.remedy:
        yield f"**Remedy:** {prose(finding.remedy)}"
    yield f"More: {code(f'lightning-tuning explain {finding.code}')}"


def _verdict(verdict: Verdict) -> str:
    rule = f" {verdict.code}" if verdict.code else ""
    return f"- **{verdict.outcome}**: {prose(verdict.name)}{rule}: {prose(verdict.sentence)}"


def _escaped(text: str) -> str:
    text = _SPECIAL.sub(r"\\\g<0>", text)
    return "".join(_ENTITIES.get(character, character) for character in text)
