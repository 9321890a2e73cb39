"""Searches over transducers, batched, on whole utterances and on streams."""

from mvqkd.decoding.beam import BeamState, ModifiedBeamSearch, modified_beam_search
from mvqkd.decoding.ctc import CTCGreedySearch, CTCState
from mvqkd.decoding.ctc_prefix import CTCPrefixSearch, CTCPrefixState
from mvqkd.decoding.greedy import GreedySearch, GreedyState, greedy_search
from mvqkd.decoding.hypothesis import Hypothesis
from mvqkd.decoding.methods import METHODS, build_search
from mvqkd.decoding.search import Search
from mvqkd.decoding.streaming import Session, StreamingRecognizer
from mvqkd.decoding.utterances import decode_chunked, decode_whole
from mvqkd.features.online_fbank import OnlineFbank

__all__ = [
    "METHODS",
    "BeamState",
    "CTCGreedySearch",
    "CTCPrefixSearch",
    "CTCPrefixState",
    "CTCState",
    "GreedySearch",
    "GreedyState",
    "Hypothesis",
    "ModifiedBeamSearch",
    "OnlineFbank",
    "Search",
    "Session",
    "StreamingRecognizer",
    "build_search",
    "decode_chunked",
    "decode_whole",
    "greedy_search",
    "modified_beam_search",
]
