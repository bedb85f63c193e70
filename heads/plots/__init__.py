"""Figures of what was found: one file draws one kind, all draw `heads.plots.records`."""
