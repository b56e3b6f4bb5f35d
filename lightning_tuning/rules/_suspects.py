"""Which findings may explain that a run went wrong: an explicit table, the likeliest first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from lightning_tuning.findings import Diagnosis, Finding, ProgressState, Severity, Suspect

__all__ = ["EXPLAINS_NOTHING", "SUSPECTS", "WHY", "diagnosis_of", "suspects", "with_suspects"]

WHY = {
    "LT101": "one such sample spoils a batch",
    "LT102": "the first layer saturates, or hears nothing",
    "LT103": "it tells nothing of the samples",
    "LT104": "the loss is not that of the labels meant",
    "LT105": "each sample is compared with the targets of all others",
    "LT106": "each stretch of one class undoes the one before",
    "LT107": "answering the largest class is nearly right",
    "LT109": "the output has too far to go to the targets",
    "LT110": "what the net is shown does not help it",
    "LT111": "samples leak into each other",
    "LT113": "there is nothing to tell samples apart by",
    "LT201": "the samples are alike before they reach the last layer",
    "LT202": "some layers get next to no gradient",
    "LT203": "units that are copies of each other stay so",
    "LT204": "the weights are whatever was in that memory",
    "LT205": "the signal shrinks or grows from layer to layer",
    "LT206": "the first steps only undo the initialization",
    "LT207": "the first steps only learn the prior",
    "LT208": "the memory forgets before it can learn what to keep",
    "LT209": "the weight lies the wrong way round",
    "LT303": "too little of the signal is left",
    "LT304": "the answer itself is struck out at random",
    "LT307": "statistics of so few samples are noise",
    "LT309": "the output cannot take the scale of the targets",
    "LT313": "the statistics are those of the last batch",
    "LT314": "the loss sees probabilities for logits: its gradients vanish",
    "LT315": "the loss is not that of probabilities",
    "LT316": "the logits cannot take the values they need",
    "LT317": "every probability is 1, or depends on the other samples",
    "LT318": "two layers in a row are one",
    "LT319": "gradients shrink at every saturated layer",
    "LT320": "these layers do not train",
    "LT401": "no optimizer moves it",
    "LT402": "each step moves it twice",
    "LT403": "no optimizer can see it",
    "LT404": "the optimizer moves a weight that is not in use",
    "LT407": "plain gradient descent crawls along a narrow valley",
    "LT408": "the learning rate is out of its usual range",
    "LT409": "eps vanishes, and updates divide by 0",
    "LT410": "the gradient grows with the batch",
    "LT411": "the penalty outweighs the task",
    "LT412": "beyond the clamp there is no gradient",
    "LT413": "a large learning rate from the first step on",
    "LT414": "no gradient passes there",
    "LT501": "the schedule runs on another clock than the run",
    "LT503": "the learning rate climbs again",
    "LT504": "the learning rate is next to 0 for most of the run",
    "LT505": "the learning rate is cut while the metric improves",
    "LT506": "the learning rate is not cut when it should be",
    "LT509": "large steps destroy what was pretrained",
    "LT510": "the learning rate is not the one meant",
    "LT511": "each step overshoots by more than the last",
    "LT513": "the schedule runs at twice its speed",
    "LT601": "one update undoes what hundreds had learned",
    "LT602": "the first layers get next to no gradient",
    "LT603": "it gets no gradient",
    "LT604": "each update replaces a good part of the weights",
    "LT605": "the weights hardly move",
    "LT606": "clipping acts as a lower learning rate",
    "LT607": "each step adds up all the gradients before",
    "LT608": "dead units pass neither signal nor gradient",
    "LT609": "saturated units pass next to no gradient",
    "LT610": "the depth is not held together by normalization",
    "LT611": "attention does not tell its inputs apart",
    "LT701": "a step without a finite loss teaches nothing",
    "LT702": "a step without a finite gradient teaches nothing",
    "LT703": "nothing comes of weights that are not finite",
    "LT704": "steps are skipped, or small gradients are lost",
}
"""How each finding keeps a run from learning, in one phrase."""

_BROKEN = "LT703 LT701 LT702"
_CUT_OFF = "LT401 LT404 LT403 LT414 LT603 LT320"
_WRONG_LOSS = "LT105 LT317 LT316 LT314 LT315 LT104 LT412"
_WEIGHTS = "LT203 LT204 LT209"
_INPUT = "LT110 LT113 LT102 LT101"
_TOO_FAST = "LT408 LT511 LT604 LT601 LT413 LT410 LT402 LT607"
_SCHEDULE = "LT504 LT501 LT513 LT510 LT503 LT505"
_SIGNAL = "LT608 LT609 LT201 LT602 LT202 LT611"
_ORDER = {
    "LT801": (
        f"{_BROKEN} {_CUT_OFF} {_WRONG_LOSS} {_WEIGHTS} {_INPUT} LT109 LT106 LT605 {_TOO_FAST} LT504 LT501 {_SIGNAL} "
        "LT411 LT509 LT704 LT409 LT606 LT206 LT304 LT309 LT303 LT111 LT307 LT318 LT319 LT313 LT513 LT510 LT503 LT505 "
        "LT506 LT610 LT205 LT208 LT107 LT207 LT103 LT407"
    ),
    "LT802": (
        f"{_BROKEN} {_TOO_FAST} LT509 LT503 LT510 LT513 LT506 LT501 LT409 LT704 LT102 LT109 LT206 LT202 LT307 LT313 "
        "LT106 LT101 LT316 LT315 LT204"
    ),
    "LT803": f"LT106 {_TOO_FAST} LT503 LT510 LT307 LT313 LT102 LT109 LT206 LT202 LT304 LT303 LT315 LT111 LT704",
    "LT804": "LT111 LT107",
    "LT805": (
        f"{_BROKEN} LT414 LT401 LT317 LT316 {_INPUT} {_SIGNAL} LT203 LT209 LT204 LT304 LT303 {_TOO_FAST} LT411 LT309 "
        "LT319 LT610 LT205 LT206 LT107 LT207 LT103"
    ),
    "LT806": f"LT605 LT606 {_SCHEDULE} LT408 LT407",
    "LT807": f"LT101 {_TOO_FAST} LT503 LT510 LT513 LT704 LT409 LT106 LT307",
}
SUSPECTS = {code: tuple(order.split()) for code, order in _ORDER.items()}
"""For each outcome the findings that may explain it, the likeliest first: what makes learning impossible (numbers that
are none, parts that are cut off, a wrong loss), then data, step size, signal, and what only slows it down."""

EXPLAINS_NOTHING = frozenset(
    """
    LT108 LT112 LT302 LT321 LT322 LT323 LT502 LT507 LT508 LT801 LT802 LT803 LT804 LT805 LT806 LT807 LT902 LT903 LT905
    """.split()  # noqa: SIM905
)
"""Warnings and errors that keep no run from learning what it is trained on: they are about evaluation, generalization,
or saving; or are outcomes themselves."""

_WRONG = ("LT802", "LT803", "LT805", "LT801")
"""Outcomes of a run that went wrong, the one that says most first."""


def suspects(findings: Iterable[Finding], outcome: str = "LT801") -> list[Suspect]:
    """The findings that may explain an outcome: warnings and errors before infos, then in the order of the table.

    Args:
        findings: of the run.
        outcome: a code of :data:`SUSPECTS`. Default: that it does not learn, or cannot fit a batch.

    Example:
        >>> found = [Finding(code, "x", Severity.WARNING, "y") for code in ("LT901", "LT408", "LT401", "LT314")]
        >>> [(suspect.finding.code, suspect.why) for suspect in suspects(found)][0]
        ('LT401', 'no optimizer moves it')
        >>> [suspect.finding.code for suspect in suspects(found, "LT803")]
        ['LT408']
    """
    places = {code: place for place, code in enumerate(SUSPECTS[outcome])}
    listed = [finding for finding in findings if finding.code in places]
    listed.sort(key=lambda finding: (finding.severity < Severity.WARNING, places[finding.code], finding.where))
    return [Suspect(finding, WHY[finding.code]) for finding in listed]


def with_suspects(finding: Finding, findings: Iterable[Finding], most: int = 3) -> Finding:
    """``finding`` of an outcome, with the likely causes among ``findings`` in its message and evidence.

    Example:
        >>> outcome = Finding("LT801", "not-learning", Severity.WARNING, "the loss averages 2.3")
        >>> found = [Finding("LT314", "redundant-softmax", Severity.ERROR, "y", where="net.5")]
        >>> with_suspects(outcome, found).message
        'the loss averages 2.3; likely causes: LT314 redundant-softmax at net.5'
    """
    listed = suspects(findings, finding.code)
    if not listed:
        return finding
    named = [
        f"{one.finding.code} {one.finding.name}" + (f" at {one.finding.where}" if one.finding.where else "")
        for one in listed[:most]
    ]
    codes = " ".join(dict.fromkeys(one.finding.code for one in listed))
    return dataclasses.replace(
        finding,
        message=f"{finding.message}; likely causes: {', '.join(named)}",
        evidence={**finding.evidence, "suspects": codes},
    )


def diagnosis_of(findings: Sequence[Finding], progress: ProgressState, batches: int) -> Diagnosis | None:
    """How a run that is over went wrong, and the likely causes; ``None`` of one that did not, or came round.

    Args:
        findings: of the whole run.
        progress: at its end.
        batches: that it had.
    """
    heard = {finding.code for finding in findings if finding.severity >= Severity.WARNING}
    code = next((code for code in _WRONG if code in heard), None)
    if progress == "converged" or (code is None and progress not in ("flat", "diverging")):
        return None
    if code is None:
        code = "LT802" if progress == "diverging" else "LT801"
    outcome = {
        "LT802": f"the run diverged (in {batches} batches)",
        "LT803": f"the run did not learn (its loss swings, after {batches} batches)",
        "LT805": f"the run did not learn (one answer for all samples, after {batches} batches)",
        "LT801": f"the run did not learn (flat after {batches} batches)",
    }[code]
    return Diagnosis(outcome, tuple(suspects(findings, code)))
