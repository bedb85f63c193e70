"""From a configuration and stores to a trained head: runs, the loop, the cycle."""
