"""Stage 1: frozen Stable Diffusion and CLIP over every image of a dataset, into a store.

`precompute.py` tells the story: a configuration becomes a `job.py`, whose images come from
`inputs/`, whose features `extract.py` takes from `networks/`, and whose shards `sink.py` writes,
all at once in `compute.py`. `workers/` does the same on many machines.
"""
