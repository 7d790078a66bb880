"""The settings of sampling as they count in addresses of what is drawn."""

from typing import Any

from leanmotion.pipeline.code_address import code_address
from leanmotion.pipeline.setting_address import added, addressed
from leanmotion.pipeline.settings import Sampling

COMPILING = ("leanmotion.model.compiling:compile_modules", "leanmotion.model.compiling:uncompiled")


def sampling_address(sampling: Sampling) -> dict[str, Any]:
    """All settings by name; compiled, with the address of the code that says what is: no other address holds it."""
    found = addressed(sampling)
    if added(sampling.torch_compile):
        found["torch_compile"] = code_address(*COMPILING)
    return found
