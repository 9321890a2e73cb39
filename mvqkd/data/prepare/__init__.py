"""Stages 1 to 3: validated manifests, filterbank features, tokens."""
