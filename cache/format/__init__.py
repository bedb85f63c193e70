"""What a store is on disk: names, documents, records and their bytes."""
