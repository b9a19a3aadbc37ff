"""The same on an NDIF server: what a request brings, how it is sent, what can go wrong."""
