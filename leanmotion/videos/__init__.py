"""Frames to stored clips: lossless bytes, the chunk store, and tables of the clips of many variants.

All stages that draw go this way. What a clip looks like is decided in `model`; what it is measured by, in `features`.
"""
