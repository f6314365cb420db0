"""What a call costs the host: launches, PyTorch operations and time, counted and timed without a GPU."""

FLOOR = "floor"  # the call that every other one is compared with
ROUNDS = 400  # timed calls of each
