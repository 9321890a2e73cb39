"""From audio to filterbank features, offline and online, and their masking."""
