"""What `pip install .` gives: every file in the wheel, and adapters that draw without the pipeline's packages."""

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from committed import ROOT
from portable import LIGHT, of_one_system, others_than_light
from tiny import tiny_settings

import leanmotion
from leanmotion.model.judged_sampling import judged_sampling
from leanmotion.model.pruned_adapter import save_pruned
from leanmotion.model.removal import remove_units
from leanmotion.model.teacher import load_pipeline
from leanmotion.pipeline.extra import PACKAGES, needed

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE, EXTRA = PROJECT["dependencies"], PROJECT["optional-dependencies"]["pipeline"]

IMPORTED = {"yaml": "pyyaml", "PIL": "pillow", "markupsafe": "jinja2", "huggingface_hub": "diffusers"}
"""Import -> distribution, where these differ, or another one cannot do without it."""

HIDE = f"""
import sys
from importlib.machinery import PathFinder
class Hidden:
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {PACKAGES} else PathFinder.find_spec(name, path, target)
    def find_distributions(*context):
        return (one for one in PathFinder.find_distributions(*context) if one.name not in {PACKAGES})
    invalidate_caches = PathFinder.invalidate_caches
sys.meta_path[sys.meta_path.index(PathFinder)] = Hidden
"""
"""Run first in a process, it is as if the extra were not installed."""

DRAW = """
from leanmotion import lean, load_pruned_pipeline
pipe = load_pruned_pipeline("pruned", base=sys.argv[1])
clip = pipe("a red ring grows", output_type="np").frames[0]
print(clip.shape, lean(pipe).before > 0)
"""


def name_of(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found
    return found[0].lower()


def run(code: str, *arguments: object, cwd: Path, python: str = sys.executable) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "80"}
    if python == sys.executable:
        environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [python, "-c", code, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, encoding="utf-8"
    )


@pytest.fixture(scope="module")
def adapter(teacher_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders `pruned`, an adapter without one block, and `base`."""
    place, teacher = tmp_path_factory.mktemp("package"), teacher_folder(levels=2, layers=1)
    settings = tiny_settings(teacher)
    pipeline = load_pipeline(settings.teacher)
    remove_units(pipeline.unet, ["mid_0"])
    save_pruned(pipeline.unet, place / "pruned", judged=judged_sampling(settings.sampling, pipeline.scheduler))
    return place, teacher.base


def test_a_pruned_adapter_is_loaded_and_draws_without_the_pipelines_packages(adapter: Any) -> None:
    place, base = adapter
    done = run(HIDE + DRAW, base, cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(3, 32, 32, 3) True"


COMMANDS = (
    HIDE
    + """
from leanmotion.commands.cli import app
for words in (["--help"], ["plan"], ["show", "x.parquet"], ["check"], ["solve"], ["sweep"], ["taken"],
              ["generate", "--prompt", "x", "-o", "x.gif"]):
    sys.argv = ["leanmotion", *words]
    try:
        app()
    except SystemExit as ended:
        print("ended", ended.code, flush=True)
from leanmotion.pipeline.stage import guarded
sys.argv = ["stages/rank.py", "--help"]
try:
    guarded(lambda: __import__("pandas"))()
except SystemExit as ended:
    print("ended", ended.code)
try:
    from leanmotion import rank_blocks
except ImportError as error:
    print(error)
"""
)


def test_a_command_that_needs_the_extra_says_so_in_one_line(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "tests/settings.yaml", tmp_path / "params.yaml")
    done = run(COMMANDS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^ended (.*)$", done.stdout, re.MULTILINE) == ["0", *"22222222"]
    lines = done.stderr.splitlines()
    named = [
        re.match(r"error: (\w+ ?\w*): needs leanmotion\[pipeline\], (\w+) is not installed: pip install", x)
        for x in lines
    ]
    commands = ["plan", "show", "check", "solve", "sweep", "taken", "generate"]
    assert [found and found[1] for found in named] == [*(f"leanmotion {c}" for c in commands), "rank"], lines
    assert {found[2] for found in named if found} <= set(PACKAGES) and named[0] and named[0][2] == "dvc"
    assert "Usage" in done.stdout and done.stdout.splitlines()[-1].startswith(
        "leanmotion.rank_blocks: needs leanmotion["
    )


def test_what_else_is_missing_is_no_matter_of_the_extra() -> None:
    assert needed(ModuleNotFoundError("No module named 'x'", name="x"), "leanmotion plan") is None
    assert needed(ModuleNotFoundError("no name"), "leanmotion plan") is None


def test_every_package_that_is_imported_is_asked_for() -> None:
    """The extra's names are those that the line knows; what the lock pins holds both, and the tests' own."""
    found: set[str] = set()
    for path in (*(ROOT / "leanmotion").rglob("*.py"), *(ROOT / "stages").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    found -= {*sys.stdlib_module_names, "leanmotion", "msvcrt", "fcntl", "resource"}
    named = {IMPORTED.get(name, name) for name in found}
    core, extra = set(map(name_of, CORE)), set(map(name_of, EXTRA))
    # DVC reads its YAML faster with one; a run of diffusers' loaders is slower without accelerate.
    assert named == (core | extra) - {"ruamel.yaml.clib"} and not core & extra
    assert set(PACKAGES) == extra - {"ruamel.yaml.clib"}
    locked = {name_of(line) for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()}
    dev = {name_of(line) for line in PROJECT["optional-dependencies"]["dev"]} - {"leanmotion"}
    assert core | extra | dev <= locked


def build(folder: Path) -> Path:
    """The wheel of this tree's sources, built as a clean checkout has them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("data/", "metrics/", "docs/")):
            (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "clone" / name)
    if not (folder / "clone").is_dir():
        pytest.skip("the sources are not under git")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(folder / "clone")], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "leanmotion").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == ours
    assert {"leanmotion/export/templates/pruned.md.j2", "leanmotion/report/templates/style.css"} <= held


def test_the_wheel_says_its_version_and_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        place = f"leanmotion-{leanmotion.__version__}.dist-info"
        said = email.message_from_bytes(archive.read(f"{place}/METADATA"))
        assert "leanmotion = leanmotion.commands.cli:app" in archive.read(f"{place}/entry_points.txt").decode()
    assert said["Version"] == leanmotion.__version__
    needs = said.get_all("Requires-Dist") or []
    assert {name_of(line) for line in needs if "extra ==" not in line} == set(map(name_of, CORE))
    assert {name_of(line) for line in needs if "pipeline" in line and "leanmotion" not in line} == set(
        map(name_of, EXTRA)
    )


def test_one_version_is_named_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert citation["version"] == headings[0] == leanmotion.__version__
    assert citation["license"] == PROJECT["license"] and citation["cff-version"] == "1.2.0"


def test_light_tests_are_run_on_three_systems_and_take_what_all_have() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["test"]["timeout-minutes"] == 90
    assert [name.partition("-")[0] for name in jobs["light"]["strategy"]["matrix"]["os"]] == [
        "ubuntu",
        "macos",
        "windows",
    ]
    assert jobs["light"]["steps"][-1]["run"] == 'python -m pytest -m "light and not long"'
    others = others_than_light(ROOT / "tests")
    assert "pipeline/test_launch.py" in others and not others & {*LIGHT}
    for name in (*LIGHT, "conftest.py"):
        assert (ROOT / "tests" / name).is_file() and not list(of_one_system(ROOT / "tests" / name))


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not os.environ.get("LEANMOTION_SLOW"), reason="LEANMOTION_SLOW=1 installs from the network")
def test_installed_into_an_empty_environment_it_loads_and_draws(adapter: Any, wheel: Path, tmp_path: Path) -> None:
    place, base = adapter
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    binaries = tmp_path / "venv" / ("bin" if (tmp_path / "venv/bin").is_dir() else "Scripts")
    torch = next(line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith("torch=="))
    # Alone first: where an index has a build for CPUs under that version, it is taken.
    for wanted in (torch, str(wheel)):
        subprocess.run([str(binaries / "python"), "-m", "pip", "install", "--quiet", wanted], check=True)
    python = str(binaries / "python")
    assert run("import dvc", cwd=place, python=python).returncode == 1
    done = run("import sys" + DRAW, base, cwd=place, python=python)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "(3, 32, 32, 3) True", done.stderr
    shown = subprocess.run([str(binaries / "leanmotion"), "--help"], capture_output=True, encoding="utf-8")
    assert shown.returncode == 0 and "generate" in shown.stdout
