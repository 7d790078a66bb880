"""A small world of coloured sprites in motion: captions, a renderer, and the training of its teacher and reader.

It stands in for Stable Diffusion and AnimateDiff where nothing can be downloaded. Everything else in the package sees
only the folders that it produces: a base pipeline, a motion adapter, and a feature extractor.
"""
