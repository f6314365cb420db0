"""Questions about any `torch.nn.Module`: is it plain, what is its state, can a file restore it."""
