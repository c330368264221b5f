"""The service that works with the volumes' bytes: it takes their operations, and runs them on backends."""
