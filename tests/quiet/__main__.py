"""The quiet suite as a table: net, metric, findings, seconds. ``python -m tests.quiet [names] [--select LT3 ...]``."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import time
import traceback
import warnings
from collections import defaultdict

import torch

from lightning_tuning import Severity
from tests.quiet.runs import SETTLED, Outcome, train
from tests.quiet.zoo import Net, nets


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.quiet", description=__doc__)
    parser.add_argument("names", nargs="*", help="only nets whose name holds one of these")
    parser.add_argument("--select", nargs="*", help="codes or prefixes that the suite takes")
    parser.add_argument("--ignore", nargs="*", help="codes or prefixes that the suite drops")
    parser.add_argument("--bare", action="store_true", help="without the suite: does it learn at all?")
    parser.add_argument("--errors", action="store_true", help="show the traceback of a net that fails")
    arguments = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = [net for net in nets() if not arguments.names or any(name in net.name for name in arguments.names)]
    failed, began, outcomes = 0, time.perf_counter(), []
    for net in chosen:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                done = train(net, bare=arguments.bare, select=arguments.select, ignore=arguments.ignore)
        except Exception as error:  # noqa: BLE001 - the others are still of interest
            failed += 1
            _say(f"{net.name:26} FAILED  {type(error).__name__}: {str(error)[:200]}")
            if arguments.errors:
                traceback.print_exc()
            continue
        outcomes.append(done)
        failed += not _is_fine(net, done)
        _say(_line(net, done))
    _say(f"\n{len(chosen)} nets, {failed} not as they should be, {time.perf_counter() - began:.0f} s\n")
    _by_code(outcomes)
    return min(failed, 1)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _is_fine(net: Net, done: Outcome) -> bool:
    settled = not net.settles or done.unsettled < SETTLED
    return settled and net.goal.is_met_by(done.value) and not done.at_least(Severity.WARNING)


def _line(net: Net, done: Outcome) -> str:
    codes = [f"{finding['severity'][0].upper()}:{finding['code']}" for finding in done.findings]
    reached = f"{net.goal.metric} {done.value:.3g} ({str(net.goal).removeprefix(net.goal.metric + ' ')})"
    flags = ("" if net.goal.is_met_by(done.value) else " NOT LEARNT") + (" settles" if net.settles else "")
    return (
        f"{net.name:26} {done.seconds:5.1f} s  {reached:34} {done.progress:10} {done.unsettled:6.1%}"
        f"{flags} {' '.join(codes)}{' blind' if done.notes else ''}"
    )


def _by_code(outcomes: list[Outcome]) -> None:
    found = defaultdict(list)
    for done in outcomes:
        for finding in done.findings:
            found[finding["severity"], finding["code"], finding["name"]].append((done.net, finding))
    for (severity, code, name), findings in sorted(found.items()):
        where = {net for net, _ in findings}
        _say(f"{severity} {code} {name}: {len(where)} nets")
        for net, finding in findings:
            _say(f"  {net}: {finding['where'] or '(run)'} {finding['source_line'] or ''}: {finding['message']}")
    for done in outcomes:
        for note in done.notes:
            _say(f"note {done.net}: {note}")


if __name__ == "__main__":
    sys.exit(main())
