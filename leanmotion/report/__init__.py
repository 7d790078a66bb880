"""What was found, for eyes: one self-contained page, galleries of clips, and the files of `dvc plots`.

Nothing reads it, and no figure is computed here that no artefact holds.
"""
