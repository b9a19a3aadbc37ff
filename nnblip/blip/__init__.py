"""BLIP as an nnsight model: its names, inputs, states and answers. Knows nothing of what it is used for."""
