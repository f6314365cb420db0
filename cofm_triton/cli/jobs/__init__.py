"""Long jobs: their work is cut into blocks, which are saved when finished, shared by processes, and never redone."""
