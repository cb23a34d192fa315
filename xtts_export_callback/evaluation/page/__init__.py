"""The listening page: one HTML file that shows an evaluation and a run, and plays what was said."""
