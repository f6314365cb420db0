"""The parts of `cofm reproduce`: settings, result folder, stages, report."""
