"""Packages that only the pipeline needs: the extra `leanmotion[pipeline]`, and the line where they are missing."""

PACKAGES = ("av", "dvc", "matplotlib", "networkx", "pandas", "pyarrow", "scipy")
"""As they are imported. Loading a pruned adapter and drawing with it needs none."""


def needed(error: ModuleNotFoundError, what: str) -> str | None:
    """The line for a package of the extra that is not there; None where something else is missing."""
    package = (error.name or "").partition(".")[0]
    if package not in PACKAGES:
        return None
    return (
        f"{what}: needs leanmotion[pipeline], {package} is not installed: "
        'pip install ".[pipeline]" in a clone of leanmotion'
    )
