"""A teacher's codes and embeddings on disk, and as targets of a student's frames."""
