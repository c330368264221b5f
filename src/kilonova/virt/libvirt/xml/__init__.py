"""The domain's XML, one small function a device: https://libvirt.org/formatdomain.html

Only ElementTree writes it, so nothing a user says can be taken for markup.
"""
