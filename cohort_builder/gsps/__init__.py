"""Presentation states: what was drawn on which image (PS3.3 C.10.5), read into annotations."""
