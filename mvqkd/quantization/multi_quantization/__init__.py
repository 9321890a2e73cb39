"""Quantizers and codes of the package `multi_quantization`, which icefall's recipe uses."""
