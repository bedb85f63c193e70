"""Image ids in, tensors out."""
