"""What each head of a model is trained with: its losses, their names and warm-ups."""

from mvqkd.training.heads.attention import AttentionHeadLoss
from mvqkd.training.heads.ctc import CTCHeadLoss
from mvqkd.training.heads.protocol import HeadLoss
from mvqkd.training.heads.transducer import TransducerHeadLoss

__all__ = ["AttentionHeadLoss", "CTCHeadLoss", "HeadLoss", "TransducerHeadLoss"]
