"""Captions for nano's CLIP: a vocabulary of its own, one number a word.

`a photo of a cat`, `a sketch of a cat` and `a cat`, for every seen category.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.shapes.categories import SEEN

TEMPLATES = ("photo", "sketch", "")
"""What a caption calls the picture; the last one says nothing about it."""

WORDS = ("", "a", "an", "of", "photo", "sketch", *SEEN)
"""A word's place is its token; the first pads."""
END = 63
"""Ends a caption. The highest token, which is where open_clip reads the text's embedding."""
LENGTH = 8


def caption(kind: str, category: str) -> str:
    """The caption of a category in one of the TEMPLATES."""
    thing = f"{'an' if category[0] in 'aeiou' else 'a'} {category}"
    return f"a {kind} of {thing}" if kind else thing


def tokenize(text: str) -> list[int]:
    """Tokens of a caption, LENGTH of them. Raises ValueError for a word it does not know."""
    tokens = [WORDS.index(word) for word in text.split()]
    return [*tokens, END, *[0] * (LENGTH - len(tokens) - 1)]


def all_captions() -> Tensor:
    """Tokens [3 * 24, LENGTH] of every caption: all categories of a template, then the next's."""
    return torch.tensor([tokenize(caption(kind, name)) for kind in TEMPLATES for name in SEEN])
