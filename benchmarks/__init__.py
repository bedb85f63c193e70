"""Timings as ratios within one run, and results over several seeds: what the documents quote.

`sketchfusion bench read|write|precompute|train|live|heads|scale` are the timings; each is also a
script (`python benchmarks/read.py`).
"""
