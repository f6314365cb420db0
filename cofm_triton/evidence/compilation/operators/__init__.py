"""One file per operator, of the operator's name: the launches that show its kernels."""
