"""The main road: from a path to what a source found, to a checked bundle, to a file; in this process or a child, for one model or many."""
