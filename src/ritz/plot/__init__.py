"""The few pictures that every method needs, in one style.

Each function takes arrays or a fit and returns a Matplotlib figure; show it in a notebook, or
`figure.savefig("picture.png")`. No display is needed, and pyplot's state is left alone. Colours are
told apart by colour-blind readers, lines by their dashes where there is no colour.
"""

from ritz.plot._calibration import calibration
from ritz.plot._images import images
from ritz.plot._loss import loss
from ritz.plot._margins import margins
from ritz.plot._pairs import pairs
from ritz.plot._style import COLOURS, canvas
from ritz.plot._trajectories import trajectories

__all__ = [
    "COLOURS",
    "calibration",
    "canvas",
    "images",
    "loss",
    "margins",
    "pairs",
    "trajectories",
]
