"""What is wrong with a store, what of it is still right, and putting the rest right."""
