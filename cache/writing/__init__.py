"""Making a store, growing it, filling shards, dropping what is no longer wanted."""
