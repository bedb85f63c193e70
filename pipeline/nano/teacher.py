"""A small convolutional network that learns beside nano's vision transformer and shows it the way.

In an hour on a processor a transformer alone does not find out what the parts of a picture have
to do with each other. A convolutional network knows from the start. It is not shipped.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTH = 128
_LAYERS = ((24, 2), (48, 2), (48, 1), (96, 2), (96, 1), (WIDTH, 1))  # channels, stride


class Teacher(nn.Module):
    """Pictures [B, 3, H, W] to a map [B, WIDTH, H / 8, W / 8] and embeddings [B, E].

    The map is normalised: over a batch each channel has mean 0 and variance 1.
    """

    def __init__(self, embedding: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, stride in _LAYERS:
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers += [nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(WIDTH, affine=False))
        self.project = nn.Linear(WIDTH, embedding)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(pixels)
        return features, self.project(features.relu().mean((2, 3)))
