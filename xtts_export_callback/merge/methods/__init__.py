"""The methods of merging: one class each, and a registry. All compute in float64 and round once."""
