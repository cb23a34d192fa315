"""A folder for the import path of a program under ``xtts-export run``: Python starts with the module in it."""
