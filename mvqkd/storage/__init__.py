"""Files: whole or absent, locked by one writer, ragged arrays, JSON lines."""
