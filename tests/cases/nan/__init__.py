"""Runs whose loss or gradient is not finite; ``tests/contracts/test_nan_cases.py`` finds and runs them.

In the files of operations each LightningModule has one line that is to blame, marked ``# <- here``; in ``culprits`` the
blame lies elsewhere: with data, weights, the learning rate or the loop.
"""

from tests.cases.nan import backward, division, domain, overflow, reductions  # noqa: F401  # they fill NAN_CASES
from tests.cases.nan.case import INF, NAN_CASES, Culprit, NanCase, Sick
from tests.cases.nan.culprits import CULPRITS

__all__ = ["CULPRITS", "INF", "NAN_CASES", "Culprit", "NanCase", "Sick"]
