"""What the studies of modular addition share: training on pairs, and charts over training."""
