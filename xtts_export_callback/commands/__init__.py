"""The commands of ``xtts-export``, one module each."""
