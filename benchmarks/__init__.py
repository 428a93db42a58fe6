"""Whole-process measurements of segmate: python -m benchmarks --help."""
