"""Clean and corrupt: the two context managers, here or on a server."""
