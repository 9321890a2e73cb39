"""Corpora on disk: `prepare` makes manifests, features and tokens; `loading` makes batches of them;
`targets` stores and reads what a teacher gives; `synthetic` speaks a corpus of its own.
"""
