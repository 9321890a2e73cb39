"""The configuration of an experiment: what its fields are, how it is read, what it refuses.

`schema` and `fields` need the standard library alone, so that options are checked before anything
is installed.
"""
