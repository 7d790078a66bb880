"""What can be refused before any work: one list of all that a later stage would stop at, by settings and files alone.

Nothing is decided here: each refusal is a function of the room whose stage would make it.
"""
