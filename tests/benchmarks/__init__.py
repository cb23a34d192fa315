"""Full-size benchmarks: `python -m tests.benchmarks.bench_export` and `python -m tests.benchmarks.bench_average`."""
