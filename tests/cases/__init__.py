"""Sick runs and their healthy twins, a file for each rule; ``tests/contracts/test_cases.py`` finds and runs them."""

from tests.cases.case import Case, Run, case_files, cases

__all__ = ["Case", "Run", "case_files", "cases"]
