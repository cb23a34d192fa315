"""The tests. A package, so that they can share helpers as ``tests.NAME`` whatever else is installed."""
