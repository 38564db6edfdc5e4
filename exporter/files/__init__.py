"""Local and remote files: the only way to the file system and to stores behind a URL, and atomic writing of output."""
