"""Configurations to modules, and folders of experiments: what the programs in `local/` share."""
