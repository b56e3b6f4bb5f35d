"""``python -m lightning_tuning.cli``."""

from __future__ import annotations

from lightning_tuning.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
