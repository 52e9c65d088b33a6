"""Where in the body a stroke lies, from the pixels, and whether that is where the report says it is."""
