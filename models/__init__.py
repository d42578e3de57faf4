"""Segmentation models, one file per published method."""
