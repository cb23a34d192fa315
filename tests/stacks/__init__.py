"""The stacks that people train XTTS with, from the original TTS 0.22 to the newest torch, and the tests on each."""
