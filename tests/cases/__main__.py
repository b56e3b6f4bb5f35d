"""Run sick cases and write down what they give: ``python -m tests.cases``, for some ``python -m tests.cases LT601``."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile

import torch

from lightning_tuning import Finding
from tests.cases.case import Case, cases
from tests.cases.recorded import FILE, as_recorded, recorded
from tests.cases.running import findings_of_case


def main(codes: list[str]) -> None:
    """Write ``recorded.json`` anew, for the cases of ``codes``, or all of them, or none if one of them fails."""
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    found = {}
    for case in cases():
        if codes and case.code not in codes:
            found[str(case)] = recorded()[str(case)]
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # some write checkpoints
            found[str(case)] = as_recorded(_own(case, findings_of_case(case)))
            os.chdir(FILE.parent)
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(found)} findings stand in {FILE.name}\n")


def _own(case: Case, findings: list[Finding]) -> Finding:
    own = [finding for finding in findings if finding.code == case.code and finding.where == case.where]
    if not own:
        sys.exit(f"{case} gave no {case.code} at {case.where!r}; nothing is written.")
    return own[0]


if __name__ == "__main__":
    main(sys.argv[1:])
