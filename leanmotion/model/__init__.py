"""The AnimateDiff model: its units, removing them, weights in and out of every format, and drawing clips with it.

From the teacher's files and a deletion list to frames. Nothing here stores a clip, trains a weight or measures a cost.
It imports `pipeline` alone.
"""
