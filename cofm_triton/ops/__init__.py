"""The operators as PyTorch sees them: registration, derivatives, choice of backend, traffic models."""
