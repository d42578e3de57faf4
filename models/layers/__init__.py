"""Blocks used by two or more models, one file per block family."""
