"""Figures: from plain records and arrays to a matplotlib figure, one file for each kind.

They are drawn with matplotlib's objects, never through pyplot, so that nothing is shared between
them and no display is needed. Colours are Okabe and Ito's, and what matters is told twice: by
colour and by line, marker or hatching.
"""

from heads.plots.confusion import confusion_figure, guesses_figure
from heads.plots.curves import curves_figure
from heads.plots.maps import MappedImages, maps_figure
from heads.plots.masks import masks_figure
from heads.plots.matches import matches_figure
from heads.plots.mixing import mixing_figure
from heads.plots.retrieval import retrieval_figure
from heads.plots.spectrum import SpectrumMeter, spectrum_figure
from heads.plots.style import PlotError, save

__all__ = [
    "MappedImages",
    "PlotError",
    "SpectrumMeter",
    "confusion_figure",
    "curves_figure",
    "guesses_figure",
    "maps_figure",
    "masks_figure",
    "matches_figure",
    "mixing_figure",
    "retrieval_figure",
    "save",
    "spectrum_figure",
]
