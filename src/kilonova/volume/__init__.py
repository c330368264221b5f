"""The volume service: its record (builtin/), and the stores that keep the bytes (backends/)."""
