"""Training: an objective, updates of its weights, and the loop with its logs and checkpoints."""
