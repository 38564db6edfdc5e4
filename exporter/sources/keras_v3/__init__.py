"""The HDF5 layout of .keras and .weights.h5: groups of variables, and the walk that gave them their names."""
