"""Reports: one self-contained HTML page that needs no network.

`markup` and `page` are what every page is made of, `run` is the page of a run.
"""
