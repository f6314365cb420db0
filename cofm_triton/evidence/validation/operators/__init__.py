"""One file per operator, of the operator's name: how its calls are drawn, in which variants and dtypes."""
