"""From a lowered module to one shared library."""
