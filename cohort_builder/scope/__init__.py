"""Which report counts, and which studies it reads: versions, languages, keys, and the store they are kept in."""
