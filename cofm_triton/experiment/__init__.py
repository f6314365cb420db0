"""The experiment of the paper: training of its models, and figures."""
