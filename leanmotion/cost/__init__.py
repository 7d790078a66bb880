"""What a unit costs: parameters, multiply-accumulates (counted) and seconds (measured).

Nothing here looks at a clip.
"""
