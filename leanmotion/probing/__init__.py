"""What is asked of single units of the model without drawing a clip.

Scores and choices of units; what removing them does to clips is for `ranking` to tell.
"""
