"""Bytes, near and far: the only way to the file system and to stores behind a URL, and the atomic writing of output."""
