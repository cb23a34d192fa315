"""The command line `xtts-export`: one module per command."""
