"""One file per operator, of the operator's name."""
