"""The numbers of a step, measured once per trainer and shared; and whether the run learns."""

from lightning_tuning.measure._position import optimizer_index
from lightning_tuning.measure.curve import LossCurve, Point
from lightning_tuning.measure.gradients import GradientNorms, plain_name, scale_left_in
from lightning_tuning.measure.landing import Landing
from lightning_tuning.measure.meter import Meter
from lightning_tuning.measure.progress import Progress
from lightning_tuning.measure.reading import Reading

__all__ = [
    "GradientNorms",
    "Landing",
    "LossCurve",
    "Meter",
    "Point",
    "Progress",
    "Reading",
    "optimizer_index",
    "plain_name",
    "scale_left_in",
]
