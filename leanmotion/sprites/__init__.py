"""The embedded world: coloured sprites in motion, captions that name them, and a renderer.

Needs no network and no weights. How the sprites teacher and reader were trained stands in `sprites_training`.
"""
