"""What a trained run says about its own test part, as the records that figures are drawn from.

Nothing here computes a match, a ranking or a mask in a way of its own: the task's methods do.
"""

from heads.explain.correspondence import find_matches
from heads.explain.findings import Findings, find
from heads.explain.opened import Explained, ExplainError, Remembered
from heads.explain.recognition import Confusion, find_confusion, find_guesses
from heads.explain.search import find_rankings
from heads.explain.segmentation import find_masks

__all__ = [
    "Confusion",
    "ExplainError",
    "Explained",
    "Findings",
    "Remembered",
    "find",
    "find_confusion",
    "find_guesses",
    "find_masks",
    "find_matches",
    "find_rankings",
]
