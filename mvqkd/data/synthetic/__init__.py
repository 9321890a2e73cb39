"""Synthetic English read speech in LibriSpeech's layout, for recipes that need no download.

Nothing here imports torch or lhotse, so that the processes that synthesize start at once.
"""
