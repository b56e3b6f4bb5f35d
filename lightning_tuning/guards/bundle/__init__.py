"""A bad step as a folder that can be taken elsewhere: written whole or not at all, read without running any of it."""

from __future__ import annotations

from lightning_tuning.guards.bundle._folder import BundleError
from lightning_tuning.guards.bundle._read import Bundle, read_bundle
from lightning_tuning.guards.bundle._restage import Repetition, recorded_settings, repeat_bundle

__all__ = ["Bundle", "BundleError", "Repetition", "read_bundle", "recorded_settings", "repeat_bundle"]
