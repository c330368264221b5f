"""The built-in volume service: its rules, over the database and the bus."""
