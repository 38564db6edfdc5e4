"""What makes the inputs of the tests: layers, files of every format, a server of ranges."""
