"""Graph passes: one file per rewrite of the imported Relax function."""
