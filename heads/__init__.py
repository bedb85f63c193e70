"""Stage 2: small heads on features from stores, and what is done with them.

`sources/` gives feature maps, from stores or live; `aggregation.py` makes descriptors of them.
`tasks/` say what is learned, by the splits of `protocols/` and the `metrics/`; `training/` and
`evaluation/` do it. `use/` and `serve/` answer for a person's own pictures, `plots/`, `report/` and
`explain/` show and explain, `demo/` tells the whole story, and `commands/` puts all on the command
line.
"""
