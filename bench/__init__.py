"""Benchmarks: how fast the operators are, beside a copy of their input and other libraries."""
