"""Clips to features: the networks that video distances are taken in, and tables of what they see.

No distance is taken here: that is for `ranking`.
"""
