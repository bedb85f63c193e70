"""The built-in `nano` backbone: how its weights are trained, and the weights themselves."""
