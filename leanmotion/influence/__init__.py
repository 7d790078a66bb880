"""What the model's output changes when a unit is removed, and what these changes say of units and of sets of them.

Measured on the teacher's own trajectory. No clip is drawn, and nothing is decoded; which sets to try, `probing` says.
"""
