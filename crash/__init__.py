"""What `make crash` does: services are killed, cut off and lied to, and an oracle looks at what is left.
See docs/how-to/crash-tests.md."""
