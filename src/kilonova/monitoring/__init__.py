"""What a process tells those who watch it: that it lives, what it needs and lacks, what it has counted.

``health.py`` is asked by load balancers and service managers, ``listener.py`` answers them where there is no
API, ``gauges.py`` are numbers that are read when Prometheus asks. What is counted is in ``kilonova.metrics``.
"""
