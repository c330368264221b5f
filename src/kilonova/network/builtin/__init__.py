"""The built-in network service: Neutron's resources in our own database.

``networks``, ``subnets`` and ``ports`` are what its API does; ``instances`` is what a build asks for;
``service.BuiltinNetwork`` holds it all together. Nothing here touches a host.
"""
