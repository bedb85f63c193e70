"""Shards on many dask workers, and a watch over them."""
