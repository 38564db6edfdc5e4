"""The main path: from a file to what a source found, to a checked bundle, to an output; in this process or a child, for one model or
many."""
