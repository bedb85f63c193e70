"""From a dataset's files, or from stored latents, to what the networks take."""
