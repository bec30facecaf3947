"""Experiments a user runs: data, models, training, tables and figures."""
