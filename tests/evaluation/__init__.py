"""Measures, intervals, ranks."""
