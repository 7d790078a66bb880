"""A browser for pages, where one is there."""

import os
import shutil

import pytest


def chromium() -> str:
    wanted = os.environ.get("LEANMOTION_CHROMIUM", "")
    found = wanted or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium: install `chromium` or name one in LEANMOTION_CHROMIUM to test the page in it")
    return found
