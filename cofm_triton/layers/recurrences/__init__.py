"""What the option `recurrence` chooses between: a file for each kind, a row in `table.py` for each name."""
