"""Which nnblip this is. The one place for its number: packaging reads it from here, so a checkout has it too."""

__version__ = "0.1.0"
