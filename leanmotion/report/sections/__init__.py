"""The sections of the page, one module each: artefacts in, markup out."""
