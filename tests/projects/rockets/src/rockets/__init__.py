"""What a shuttle costs."""

__version__ = "0.1"
