"""Code generation: from a lowered module to one shared library."""
