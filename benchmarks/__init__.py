"""Measurements beside peers: alternately, in one process where that can be; ratios of medians, kept as JSON."""
