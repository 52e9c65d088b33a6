"""A PACS export: its files' headers, indexed."""
