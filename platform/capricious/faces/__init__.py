"""Geometry and image I/O: numpy and Pillow only, no torch, no Ray."""
