"""Benchmarks: `python -m bench NAME [--json]`, from the project's top folder."""
