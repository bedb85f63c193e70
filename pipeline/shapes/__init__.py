"""A procedural world of things, photographed and sketched, with exact ground truth."""
