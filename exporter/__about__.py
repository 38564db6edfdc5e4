"""The version, in a file of its own so that every room can say it without importing the package's face."""

__version__ = "0.2.0"
