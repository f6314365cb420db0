"""One step of a recurrence: activation, parameterisation, discretisation, coefficients, matrices."""
