"""Processes: those of torchrun, workers that end with their parent, jobs in shards, signals."""
