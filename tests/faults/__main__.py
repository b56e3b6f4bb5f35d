"""The faults as a table: what they cost, who found them. ``python -m tests.faults [names] [--select LT6 ...]``."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import time
import warnings
from collections import Counter

import torch

from lightning_tuning import Severity
from tests.faults.fault import STRENGTHS, Setup, faults
from tests.faults.outcome import Outcome
from tests.faults.runs import train


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="only faults whose name holds one of these")
    parser.add_argument("--select", nargs="*", help="codes or prefixes that the suite takes")
    parser.add_argument("--verbose", action="store_true", help="all findings in full")
    arguments = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = [f for f in faults() if not arguments.names or any(name in str(f) for name in arguments.names)]
    found, wrong, twins, began = Counter[str](), 0, dict[str, Outcome](), time.perf_counter()
    for fault in chosen:
        if fault.twin.name not in twins:
            twin = twins[fault.twin.name] = _train(fault.twin, arguments)
            wrong += bool(twin.at_least(Severity.WARNING))
            _say(f"{'twin ' + fault.twin.name:36} {_line(twin)}")
        done, twin = _train(fault.run, arguments), twins[fault.twin.name]
        codes, harms = fault.found_by(done.findings), fault.harms(done, twin)
        found[fault.strength] += bool(codes)
        wrong += not codes or not harms
        _say(f"{fault!s:36} {_line(done)} {'found by ' + ', '.join(codes) if codes else 'MISSED'}{_harm(harms)}")
        if arguments.verbose:
            for told in done.at_least(Severity.INFO):
                _say(told)
    _say(f"\n{len(chosen)} faults, {found.total()} found, {time.perf_counter() - began:.0f} s")
    for strength in STRENGTHS:
        _say(f"{strength}: {found[strength]} of {sum(fault.strength == strength for fault in chosen)}")
    return min(wrong, 1)


def _train(setup: Setup, arguments: argparse.Namespace) -> Outcome:
    with contextlib.redirect_stdout(io.StringIO()):
        return train(setup, select=arguments.select)


def _line(done: Outcome) -> str:
    codes = [f"{finding['severity'][0].upper()}:{finding['code']}" for finding in done.findings]
    return f"{done.seconds:4.1f} s {done.accuracy:6.1%} loss {done.loss:<7.3g} {done.progress:10} {' '.join(codes):40}"


def _harm(harms: bool) -> str:
    return "" if harms else "  NO HARM"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
