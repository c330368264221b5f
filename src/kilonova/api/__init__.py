"""The HTTP edge: one folder an OpenStack API, each a table of routes over plain functions."""
