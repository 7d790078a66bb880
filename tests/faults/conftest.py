"""One finished micro project for all families, and the table at the end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ledger
import pytest
from project import Project, run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, micro: Path) -> Project:
    """A micro project after a whole run of the flow. Do not change."""
    project = Project.of(micro / "clone", tmp_path_factory.mktemp("faults") / "project")
    with project.entered():
        run("report")  # shows settings, which are others here
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of it, yours to break."""
    copy = finished.copy(tmp_path / "project")
    with copy.entered():
        yield copy


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if ledger.FULL and ledger.FAMILIES:
        terminalreporter.write_line("\n" + ledger.table())
