"""What is asked of a `torch.nn.Module`: is it plain, what is its state, does it survive a file."""
