"""Is every kernel right, on this machine? Random calls of every operator against `reference/` in float64."""
