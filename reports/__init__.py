"""Reads a finished or running run: front, report, pick, exported bundle. Importing this room loads no torch."""
