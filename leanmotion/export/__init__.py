"""The chosen student as a lighter adapter, in the forms that people load.

Everything handed over is checked against the student that was judged.
"""
