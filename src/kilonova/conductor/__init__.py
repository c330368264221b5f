"""The conductor: runs the long operations, and is the computes' only way to the database."""
