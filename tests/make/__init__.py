"""Generators of test inputs: layers, files of every format, a web server that supports range requests."""
