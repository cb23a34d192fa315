"""Full-size benchmarks: `python -m tests.benchmarks.bench_export` and the like."""
