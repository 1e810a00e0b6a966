"""A library with an interface in C: no Python and no TVM at run time."""
