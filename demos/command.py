"""What every demo's command line has in common: where the data lie, the seed, the threads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from mnist_data import DataError, load_digits
from mnist_training import Bench, quieten
from rich.markup import escape


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Add to ``parser`` what :func:`open_bench` asks for."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder of the four IDX files, gzipped or not; fetched into it if it lacks them (default: data/mnist)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and the order of images (default: 0)")
    # Measured on two cores: a second thread gains nothing on nets this small, and loses half where a core is shared.
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1; figures differ a little)")
    parser.add_argument("--progress", action="store_true", help="show Lightning's progress bars")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="folder for an HTML report of each run")
    parser.add_argument("--fast", action="store_true", help=argparse.SUPPRESS)  # few images: does everything run?


def open_bench(asked: argparse.Namespace, program: str) -> Bench | None:
    """The bench that was asked for, with a line on its data; ``None``, and a line why, where there are none."""
    torch.set_num_threads(asked.threads)
    quieten()
    try:
        digits = load_digits(asked.data_dir)
    except DataError as error:
        print(f"{program}.py: {error}", file=sys.stderr)
        return None
    bench = Bench(digits, seed=asked.seed, progress=asked.progress, fast=asked.fast, report=asked.report)
    notice = "" if digits.is_mnist else "[bold yellow]Not MNIST:[/] "
    bench.say(f"{notice}{escape(digits.source)}")
    bench.say(f"{len(digits.train)} images to train, {len(digits.val)} to validate, {len(digits.test)} to test")
    if asked.report is not None:
        bench.say(f"each run leaves a report in {escape(str(asked.report))}")
    return bench
