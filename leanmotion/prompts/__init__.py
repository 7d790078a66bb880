"""Which prompts are drawn, with which seeds: three splits, and what students are trained on.

Rows of tables. Drawing them is for `videos`.
"""
