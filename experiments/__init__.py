"""Experiments: `python -m experiments.NAME` trains, evaluates and reports."""
