"""Error rates with their intervals, result files, tables and pictures."""
