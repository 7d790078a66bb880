"""Is the order the right one, deleted this way, at this granularity? Experiments on the flow's results.

No stage of the flow uses this room.
"""
