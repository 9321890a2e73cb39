"""From manifests of cuts with features to the batches of an epoch."""
