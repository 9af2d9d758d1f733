"""Benchmarks of the broker beside its peers; never part of the test run."""
