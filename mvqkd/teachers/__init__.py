"""Teachers: waveforms to embeddings of chosen layers, one interface for several sources."""

from mvqkd.teachers.interface import CTCTranscriber, Embeddings, Teacher
from mvqkd.teachers.load import load_teacher

__all__ = ["CTCTranscriber", "Embeddings", "Teacher", "load_teacher"]
