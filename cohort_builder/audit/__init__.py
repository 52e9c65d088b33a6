"""Does anything identifying leave? A search of what was published, independent of what scrubbed it."""
