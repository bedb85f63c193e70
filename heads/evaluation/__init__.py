"""A trained head's results, beside baselines, floors, chance and the paper."""
