"""The paper's experiment: training of its models, and its figures."""
