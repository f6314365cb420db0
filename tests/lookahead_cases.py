"""What tests of both passes that look ahead share."""

# A length with a tail after its last block, and with the others below all that a tail can be.
LENGTH = 403
LENGTHS = (*range(1, 10), 400, 401, 402, LENGTH)
# The last one is the smallest whose powers are kept.
DECAYS = [1 - 1e-6, 1.0, -1.0, -(1 - 1e-4), 1 - 1e-3, 0.5, 0.0, -(2.0**-25)]
