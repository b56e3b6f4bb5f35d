"""One more thing to do when ``configure_model`` is done; guards need it too, so it lives further down."""

from lightning_tuning.runtime.configure_model import after_configure_model

__all__ = ["after_configure_model"]
