"""What is known: one file per rule of thumb, each with its declaration(s) and pure verdicts.

Importing this package imports every file of it, and so fills the catalogue.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
