"""`nnblip serve`: a real NDIF server on this machine (ndif 0.1.2 from PyPI, extra `nnblip[serve]`)."""
