"""A run folder as one page that opens from disk: findings, curves, heat maps, the model. Extra ``report``."""

from lightning_tuning.reporters.html.render import ReportExtraError, render_report

__all__ = ["ReportExtraError", "render_report"]
