"""Specifications of inspecting."""
