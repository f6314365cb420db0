"""Evidence that the product is right and fast: tolerances, validation, compilation, benchmark."""
