"""Training: state, optimisers, a step, the loop around it, checkpoints, metrics, run folders."""
