"""Measurements beside peers: one process, alternating, ratios of medians, kept as JSON with the machine's name."""
