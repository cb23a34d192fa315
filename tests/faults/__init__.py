"""A campaign of faults against real trainings."""
