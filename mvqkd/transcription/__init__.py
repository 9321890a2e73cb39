"""Transcripts of audio of any length: reading, windows and segments, words, formats."""
