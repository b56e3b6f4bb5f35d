"""The tests; a package only so that ``tests.helpers`` is this one, whatever else is installed.

Failures of our own are raised here instead of being noted, in the processes that tests spawn as well.
"""

import os

os.environ["LIGHTNING_TUNING_RAISE"] = "1"
