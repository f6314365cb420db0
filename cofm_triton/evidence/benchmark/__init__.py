"""How fast the operators are, next to a copy of their input and to what else can do the work."""
