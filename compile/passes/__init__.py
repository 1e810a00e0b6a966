"""Graph passes: each file holds one rewrite of the imported Relax function."""
