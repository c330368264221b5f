"""The compute agent: the only one who touches its host. Reaches the database through the conductor."""
