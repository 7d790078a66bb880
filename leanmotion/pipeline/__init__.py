"""How a stage runs, how settings are read and artefacts written: the lock, the processes, the progress, the tables.

No result depends on this room, so no stage in dvc.yaml hangs on it. What computes a number, or decides which one,
stands elsewhere. It imports nothing of leanmotion but the error class.
"""
