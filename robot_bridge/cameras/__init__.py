"""Cameras as threads that keep the newest picture, and the ffmpeg program that encodes them."""
