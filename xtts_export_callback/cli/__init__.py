"""The command `xtts-export`: one module a command."""
