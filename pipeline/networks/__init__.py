"""The frozen networks: their weights, what they compute, where CLIP is injected."""
