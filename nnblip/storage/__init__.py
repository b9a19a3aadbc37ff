"""Files of results on disk: read as what nnblip wrote and nothing else, and held against their checksums."""
