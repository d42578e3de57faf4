"""Benchmarks and ablations of remote-sensing segmentation models: one YAML file in, the paper's tables out."""
