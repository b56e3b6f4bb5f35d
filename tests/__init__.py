"""The tests; a package only so that ``tests.helpers`` is this one, whatever else is installed."""
