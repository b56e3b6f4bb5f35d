"""Findings for people and programs; reporters know findings and nothing of torch or Lightning."""

from lightning_tuning.reporters.terminal import TerminalReporter

__all__ = ["TerminalReporter"]
