"""Training of the embedded teacher and of the reader that its clips are judged with.

Runs only where somebody trains them anew: git carries both. No stage of the flow depends on this room.
"""
