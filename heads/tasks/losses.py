"""The losses of both retrieval tasks, over the sketches and photos of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from configs.train import Negatives


def triplet_loss(
    sketches: Tensor,
    photos: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float,
    negatives: Negatives = "semi-hard",
) -> Tensor:
    """Mean over sketches of max(0, margin + s(negative) - s(positive)), s the cosine.

    `hard` takes the most similar negative (Hermans et al. 2017); `semi-hard` the most similar of
    those that are less similar than the positive, or the most similar of all where there is none
    (Schroff et al. 2015).

    Args:
        sketches: unit descriptors [B, P].
        photos: unit descriptors [N, P].
        positive: int64 [B], the row of each sketch's right photo.
        negative: bool [B, N], which photos are wrong for it. A sketch without any is left out;
            the loss of a batch without any is zero.
        margin: of the cosine.
    """
    similarity = (sketches @ photos.T).float()
    right = similarity.gather(1, positive[:, None])
    candidates = negative
    if negatives == "semi-hard":
        farther = negative & (similarity < right)
        candidates = torch.where(farther.any(1, keepdim=True), farther, negative)
    wrong = similarity.masked_fill(~candidates, -torch.inf).amax(1)
    usable = negative.any(1)
    losses = (margin + wrong[usable] - right[usable, 0]).clamp(min=0)
    return losses.sum() / max(len(losses), 1)


def contrastive_loss(
    sketches: Tensor, photos: Tensor, positive: Tensor, temperature: float
) -> Tensor:
    """Multi-positive InfoNCE: cross-entropy of each sketch's right photos among all of the batch.

    Mean over sketches i of -1/|P(i)| sum over p in P(i) of log softmax_j(s(i, j) / temperature)_p,
    s the cosine and P(i) the right photos (Khosla et al. 2020, equation 2, from sketches to photos
    only).

    Args:
        sketches: unit descriptors [B, P].
        photos: unit descriptors [N, P].
        positive: bool [B, N], which photos are right for it. A sketch without a right or without
            a wrong photo is left out; the loss of a batch without any other is zero.
        temperature: above 0.
    """
    scores = (sketches @ photos.T).float() / temperature
    n_right = positive.sum(1)
    right = (scores.log_softmax(1) * positive).sum(1) / n_right.clamp(min=1)
    usable = (n_right > 0) & (n_right < positive.shape[1])
    return -(right * usable).sum() / usable.sum().clamp(min=1)
