"""Kilonova: creates and runs virtual machines behind the OpenStack API."""

__version__ = "0.1.0"
