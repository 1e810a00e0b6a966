"""What a machine can do, what a compiled model does, and whether it is right."""
