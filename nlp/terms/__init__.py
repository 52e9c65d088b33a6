"""Term lists of the rule-based extractor, one file a list."""
