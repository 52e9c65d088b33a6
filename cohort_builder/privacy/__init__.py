"""What leaves names nobody: keyed pseudonyms and scrubbed text."""
