"""Turn the annotations that radiologists left in their PACS into grounded training data."""
