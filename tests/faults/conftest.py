"""One finished micro project for all families, and the table at the end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ledger
import pytest
from project import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Any) -> Project:
    """A micro project after a whole run of the flow, stage by stage in this process. Do not change."""
    project = Project(tmp_path_factory.mktemp("faults"), teacher_folder(levels=2, layers=1))
    project.run_flow()
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
