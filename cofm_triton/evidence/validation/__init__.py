"""Is every kernel right, on this machine? Random calls of every operator against `reference/` in float64.

An operator is one file in `operators/`, found by itself.
"""
