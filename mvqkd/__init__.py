"""Knowledge distillation for speech recognition: big teachers, small streaming-capable students.

Nothing is imported here, so that a part (`mvqkd.models`, `mvqkd.losses`, ...) costs only what it
needs itself.
"""

__version__ = "0.1.0"
