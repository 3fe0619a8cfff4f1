"""The nouns and the five contracts. No I/O, no policy."""
