"""Measure candidates, choose among them with reasons: losses, measures of speech, intervals, ranks."""
