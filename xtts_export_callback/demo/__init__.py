"""Runs the whole job in a minute, on a generated voice."""
