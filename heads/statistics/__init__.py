"""The statistics head: what a map's channels do over the cells, standardised on training images.

`pooling.py` has the statistics, `moments.py` their means and whitening, `head.py` the module,
`choices.py` what a head may choose, and `search.py` how it chooses on training images.
"""
