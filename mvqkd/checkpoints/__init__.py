"""Files of weights: checkpoints, epochs and their averages, and models loaded from them.

Nothing is imported here: which epochs an average needs is asked before torch is there.
"""
