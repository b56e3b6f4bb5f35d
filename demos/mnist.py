"""Real MNIST, a healthy net under the whole suite, and five sick ones with their cures.

``python demos/mnist.py`` trains the healthy net; ``--story nan`` tells one story (``explosion``, ``init``, ``plateau``
and ``dropout-bn`` are the others); ``--story all`` does all of it, and ends with a table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from command import add_bench_arguments, open_bench
from mnist_nets import healthy_net
from mnist_training import Bench
from rich import box
from rich.table import Table
from rich.text import Text
from stories import STORIES, Story, said
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from lightning_tuning import TuningSuite


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code of the process."""
    asked = _parser().parse_args(arguments)
    bench = open_bench(asked, "mnist")
    if bench is None:
        return 1
    start = time.perf_counter()
    chosen = {None: [healthy], "all": [healthy, *STORIES.values()]}.get(asked.story) or [STORIES[asked.story]]
    told = [tell(bench) for tell in chosen]
    bench.console.print()
    bench.console.print(table(told))
    bench.say(f"{time.perf_counter() - start:.0f} seconds in all (torch threads: {asked.threads})")
    return 0


def healthy(bench: Bench) -> Story:
    """A small net with nothing wrong in it, watched by the suite."""
    bench.console.rule("[bold]healthy")
    bench.say("A small convolutional net with batch norm, AdamW and a one-cycle schedule, watched by TuningSuite():\n")
    outcome = bench.train(
        healthy_net,
        bench.images(),
        AdamW,
        epochs=2,
        batch_size=128,
        schedule=lambda optimizer, steps: OneCycleLR(optimizer, 8e-3, total_steps=steps),
        callbacks=[TuningSuite()],
        summary=True,
    )
    bench.say(f"\nTest accuracy [bold]{outcome.percent}[/] after {outcome.seconds:.1f} s.")
    return Story("healthy", "TuningSuite()", "-", outcome.percent, said(outcome), outcome.seconds)


def table(stories: Sequence[Story]) -> Table:
    """All that was told, a row each."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, leading=1)
    result.add_column("story", no_wrap=True, style="bold")
    result.add_column("without", justify="right", no_wrap=True)
    result.add_column("with", justify="right", no_wrap=True)
    result.add_column("what helped, and what it said and did", overflow="fold")
    result.add_column("seconds", justify="right", no_wrap=True)
    for story in stories:
        words = Text.assemble((story.callback, "bold"), "\n", story.said)
        result.add_row(story.name, story.without, story.cured, words, f"{story.seconds:.1f}")
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="A healthy net on real MNIST under TuningSuite, and five sick ones with their cures."
    )
    parser.add_argument(
        "--story", choices=[*STORIES, "all"], help="tell this story; 'all' tells every one, after the healthy net"
    )
    add_bench_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
