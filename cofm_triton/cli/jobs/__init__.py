"""Long jobs: blocks that are checkpointed when they are finished, split over processes, and resumed."""
