"""Stage 1: frozen Stable Diffusion and CLIP over every image of a dataset, into a store.

`precompute.py` tells the story: a configuration becomes a `job.py`; in `compute.py` the images of
`inputs/` go through the networks, and `sink.py` writes their features, shard by shard. `workers/`
does the same on many machines.

Below it, each room uses only those after it: `inputs/` (ahead of the networks), `datasets/` and
`shapes/`, `extraction/` (batches of images become arrays), `networks/`, `pictures/` (files become
squares). `nano/` made the built-in backbone.
"""
