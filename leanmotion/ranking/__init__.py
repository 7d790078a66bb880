"""Distances between sets of videos, and an order of blocks that knows how sure it is.

Statistics over features. Nothing is drawn here but by re-ranking, which asks a student again.
"""
