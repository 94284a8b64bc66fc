"""Nouns and arithmetic: no torch, no files, no threads."""
