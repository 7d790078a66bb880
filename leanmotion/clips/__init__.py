"""Making what students are trained on: captioned videos from three sources, written as latents.

Reading them is for `distillation`.
"""
