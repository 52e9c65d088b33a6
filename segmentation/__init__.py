"""Prompts on CT volumes in, 3D masks out. Knows nothing of text or PACS."""
