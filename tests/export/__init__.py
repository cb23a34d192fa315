"""Specifications of exports."""
