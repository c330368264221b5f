"""What `make bench` measures, each figure beside what was promised. See docs/PERFORMANCE.md."""
