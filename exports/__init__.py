"""Records in, a published dataset out. Knows nothing of models or PACS."""
