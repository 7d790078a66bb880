"""The `leanmotion` command and what stands around the pipeline: plans, estimates, sweeps, the README.

Nothing imports this room.
"""
