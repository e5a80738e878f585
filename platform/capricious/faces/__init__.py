"""Geometry and image I/O: numpy, Pillow and OpenCV, no torch, no Ray."""
