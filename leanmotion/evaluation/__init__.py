"""Rounds to evidence, and evidence to a choice: how far to delete.

What is compared was drawn and embedded before.
"""
