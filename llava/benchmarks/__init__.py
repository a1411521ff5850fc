"""Benchmarks: questions, answer parsing, scoring. Pure: no model, no network, no cluster."""
