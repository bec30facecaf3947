"""The Julia engine: the original SciML stack under the contract of engines/base.py."""
