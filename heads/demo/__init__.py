"""The demonstration: the one room that runs both stages."""
