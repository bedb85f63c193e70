"""The command groups of `sketchfusion`, which cli.py puts together."""
