"""What the networks compute of an image: which arrays, and batches of them."""
