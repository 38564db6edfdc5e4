"""The HDF5 layout of .keras and .weights.h5: groups of variables, and the traversal that gave them their names."""
