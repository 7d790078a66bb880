"""Repair: what is left of a student learns from the original. Losses, the loop, its checkpoints, and rounds of it.

Reads clips to train on; making them is for `clips`. Measures no video distance and hangs on no extractor.
"""
