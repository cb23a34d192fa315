"""The methods of merging, one class each, and their registry. All compute in float64 and round once."""
