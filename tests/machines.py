"""The numeric tests as on other machines: `make test-machines`, or, short, `make test-machines WAYS=short`.

Kernels choose their path by the processor, and are told here to take it for an older one. Tests themselves force what
leanmotion chooses by the machine (tests/test_machine.py); this file is about what its libraries choose. Prints a table
of the ways; ends with 1 where a test failed, or a way could not be taken.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

OLD_LIBRARIES = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}
"""oneDNN, oneMKL (both in torch) and OpenBLAS (in NumPy and SciPy) as on a processor with AVX2 and no more."""

ODD = {
    "TZ": "Asia/Kathmandu",  # 5:45 ahead
    "LC_ALL": "C", "HF_HOME": "/nowhere/hub", "CXX": "/nowhere/g++", "LEANMOTION_SCRATCH": "/nowhere/scratch",
    "RANK": "1", "LEANMOTION_DEVICE": "cuda:7", "GIT_DIR": "/nowhere/git", "FORCE_COLOR": "1", "COLUMNS": "20",
}  # fmt: skip
"""What a shell may export: no way of kernels, but a machine too."""

FIRST_WORDS = """
import torch
torch.nn.functional.conv2d(torch.ones(8, 64, 32, 32), torch.ones(64, 64, 3, 3))
print("capability:", torch.backends.cpu.get_cpu_capability())
"""


@dataclass(frozen=True)
class Way:
    """How a run of the tests differs from the one of `make test`."""

    name: str
    environment: dict[str, str]
    tests: tuple[str, ...] = ("-m", "numeric and not long")

    def run(self, log: Path) -> dict[str, str]:
        """The row of the table: what was found of the processor, and how the tests ended."""
        environment = {**os.environ, **self.environment}
        asked = self.environment.get("ATEN_CPU_CAPABILITY")
        capability, isa = _found(environment)
        start = time.monotonic()
        command = [sys.executable, "-m", "pytest", *self.tests]
        with log.open("w") as file:
            code = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file).returncode
        lines = log.read_text(errors="replace").rstrip().splitlines()
        taken = asked is None or capability.lower() == asked
        return {
            "way": self.name,
            "ATen": capability if taken else f"{capability}, not {asked}",
            "oneDNN": isa,
            "tests": re.sub(r" in [\d.:hms ()]+$", "", lines[-1]) if lines else "",
            "seconds": f"{time.monotonic() - start:.0f}",
            "": "green" if code == 0 and taken else "RED",
        }


CHOICES = (
    ("default", "AVX2", 2, "on"),
    ("default", "native", 1, "off"),
    ("avx2", "AVX2", 1, "off"),
    ("avx2", "native", 2, "on"),
    ("", "AVX2", 2, "off"),
    ("", "native", 1, "on"),
)
"""ATen's kernels, the libraries', threads, bfloat16. Any two choices meet in one of these ways: six do for the 24.

The first has the oldest kernels, and threads that share: the short form.
"""


def ways(short: bool) -> Iterator[Way]:
    """All of them; in the short form the oldest kernels alone, as `make test` takes this processor's own."""
    for aten, libraries, threads, low in CHOICES[:1] if short else CHOICES:
        environment = {
            **({"ATEN_CPU_CAPABILITY": aten} if aten else {}),
            **(OLD_LIBRARIES if libraries == "AVX2" else {}),
            "LEANMOTION_TEST_THREADS": str(threads),
            # Threads that wait sleep: awake, they take the cores from those that they wait for, seven times as long.
            "OMP_WAIT_POLICY": "PASSIVE",
            "LEANMOTION_TEST_LOW_PRECISION": low,
        }
        yield Way(f"{aten or 'native'} ATen, {libraries} libraries, threads {threads}, bfloat16 {low}", environment)
    if not short:
        yield Way("odd surroundings", ODD, ("-m", "not numeric and not long"))


def table(rows: list[dict[str, str]]) -> str:
    """The rows in Markdown."""
    head = list(rows[0])
    wide = [max(len(name), *(len(row[name]) for row in rows)) for name in head]
    cells = [head, ["-" * n for n in wide], *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(c.ljust(n) for c, n in zip(line, wide, strict=True)) + " |" for line in cells)


def main() -> int:
    rows = []
    with tempfile.TemporaryDirectory(prefix="leanmotion-machines-") as logs:
        for i, way in enumerate(ways("short" in sys.argv[1:])):
            print(f"{way.name} ...", flush=True)
            log = Path(logs) / f"{i}.log"
            rows.append(way.run(log))
            if rows[-1][""] == "RED":
                print(log.read_text(errors="replace")[-20_000:], flush=True)
    print(table(rows))
    return 1 if any(row[""] == "RED" for row in rows) else 0


def _found(environment: dict[str, str]) -> tuple[str, str]:
    """What torch and oneDNN take the processor for."""
    words = [sys.executable, "-c", FIRST_WORDS]
    said = subprocess.run(words, env={**environment, "ONEDNN_VERBOSE": "1"}, capture_output=True, text=True).stdout
    capability = re.search(r"^capability: (\S+)$", said, re.MULTILINE)
    isa = re.search(r"^onednn_verbose,v1,info,cpu,isa:(.*)$", said, re.MULTILINE)
    return capability[1] if capability else "?", isa[1] if isa else "?"


if __name__ == "__main__":
    raise SystemExit(main())
