"""What precompute goes through: a dataset's images, ahead of the networks, or stored latents."""
