"""Findings to lesions: evidence, posterior, decision, and how its parameters are refitted."""
