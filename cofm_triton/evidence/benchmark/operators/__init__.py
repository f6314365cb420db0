"""One file per operator, of the operator's name: its shapes, inputs, traffic model and bounds."""
