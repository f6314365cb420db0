"""Sizes that decide how work on the CPU is done, for those who do not compile."""

# Numbers of a tensor below which a second thread costs more than it saves.
MIN_NUMBERS = 2**15
