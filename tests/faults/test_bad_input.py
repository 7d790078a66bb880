"""Bad input: exit code not 0, one line that names setting or file and the mend, soon, and nothing half-written."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ledger import case, sample
from project import Project, stage_refused
from safetensors.torch import load_file, save_file

from leanmotion.pipeline.settings import load_settings
from leanmotion.pipeline.tables import read_table

FAMILY = "bad input"
LONG = "wide " * 2000  # 10,000 characters

# Setting, value, what the line says. Every section, out of range and of a wrong type.
SETTINGS: list[tuple[str, Any, str]] = [
    ("teacher__base", 5, "teacher.base"), ("teacher__base", "micro/bsae.safetensors", "teacher.base"),
    ("teacher__adapter", None, "teacher.adapter"), ("teacher__adapter", "./nowhere", "teacher.adapter"),
    ("teacher__dtype", "float8", "teacher.dtype"), ("teacher__sha256", "abc", "teacher.sha256"),
    ("teacher__blocks", [], "teacher.blocks"), ("teacher__blocks", "mid_0", "teacher.blocks"),
    ("teacher__blocks", ["mid_0", "mid_0"], "mid_0 twice"), ("teacher__blocks", ["mid.0"], "teacher.blocks.0"),
    ("teacher__blcks", 1, "did you mean 'blocks'"), ("teacher__base_revision", 5, "teacher.base_revision"),
    ("prompts__rank", 3, "prompts.rank"), ("prompts__rank", "many", "prompts.rank"),
    ("prompts__select", -1, "prompts.select"), ("prompts__report", 2.5, "prompts.report"),
    ("prompts__source", 5, "prompts.source"), ("prompts__source", "nowhere.txt", "prompts.source"),
    ("prompts__negative", None, "prompts.negative"), ("prompts__seed", 2**64, "prompts.seed"),
    ("prompts__seed", 10**40, "prompts.seed"), ("prompts__seed", -1, "prompts.seed"),
    ("sampling__frames", 0, "sampling.frames"), ("sampling__frames", 1, "sampling.frames"),
    ("sampling__frames", "8", "sampling.frames"), ("sampling__height", 63, "sampling.height"),
    ("sampling__width", 0, "sampling.width"), ("sampling__width", None, "sampling.width"),
    ("sampling__steps", 0, "sampling.steps"), ("sampling__steps", True, "sampling.steps"),
    ("sampling__guidance", 0.5, "sampling.guidance"), ("sampling__guidance", float("nan"), "sampling.guidance"),
    ("sampling__scheduler", "ddmi", "sampling.scheduler"), ("sampling__chunk", 0, "sampling.chunk"),
    ("sampling__threads", -2, "sampling.threads"), ("sampling__attention", "flash", "sampling.attention"),
    ("sampling__stpes", 5, "did you mean 'steps'"), ("samplin", {}, "did you mean 'sampling'"),
    ("similarity__prompts", 0, "similarity.prompts"), ("similarity__prompts", 99, "similarity.prompts"),
    ("profile__rounds", 2, "profile.rounds"), ("profile__warmup", 0, "profile.warmup"),
    ("profile__batch", "1", "profile.batch"), ("profile__seed", 2**70, "profile.seed"),
    ("probe__seed", -1, "probe.seed"), ("probe__sets", [1], "probe.sets"),
    ("probe__sets__transformers__counts", [0], "counts.0"), ("probe__sets__transformers__counts", [1, 1], "twice"),
    ("probe__sets__transformers__counts", [99], "exceeds the 7 blocks"),
    ("probe__sets__transformers__granularity", "layer", "granularity"),
    ("extractor__name", "resnet", "extractor.name"), ("extractor__path", "nowhere", "extractor.path"),
    ("extractor__sha256", "0" * 64, "extractor"), ("extractor__batch", 0, "extractor.batch"),
    ("extractor__revision", 3, "extractor.revision"), ("extractor__name", "i3d", "extractor.path"),
    ("extractor__name", "videomae", "extractor.path"),
    ("ranking__criterion", "best", "ranking.criterion"), ("ranking__resamples", 5, "ranking.resamples"),
    ("ranking__interval", 1.0, "ranking.interval"), ("ranking__interval", "0.9", "ranking.interval"),
    ("ranking__seed", 2**32, "ranking.seed"), ("ranking__criterium", "fvd", "did you mean 'criterion'"),
    ("clips__source", "internet", "clips.source"), ("clips__count", 0, "clips.count"),
    ("clips__stride", 0, "clips.stride"), ("clips__path", 7, "clips.path"),
    ("rounds", {}, "rounds"), ("rounds", {"base": {"count": 1, "from": "base"}}, "rounds.base"),
    ("rounds__r4__count", 8, "rounds.r4.count"), ("rounds__r4__count", 2, "must exceed the 2 of 'r2'"),
    ("rounds__r4__from", "r3", "rounds.r4.from"), ("rounds__r2__from", "r4", "must exceed the 4 of 'r4'"),
    ("rounds__r2__form", "base", "did you mean 'from'"), ("rounds", {"../r": {"count": 1, "from": "base"}}, "rounds"),
    ("distillation__steps", -1, "distillation.steps"), ("distillation__batch", 0, "distillation.batch"),
    ("distillation__accumulate", 0, "distillation.accumulate"),
    ("distillation__learning_rate", 0, "distillation.learning_rate"),
    ("distillation__learning_rate", "1e-3", "distillation.learning_rate"),
    ("distillation__warmup", -1, "distillation.warmup"), ("distillation__decay", "linear", "distillation.decay"),
    ("distillation__clip_norm", 0, "distillation.clip_norm"), ("distillation__ema", 1.0, "distillation.ema"),
    ("distillation__output_weight", -1, "distillation.output_weight"),
    ("distillation__feature_weight", float("inf"), "distillation.feature_weight"),
    ("distillation__trainable", 5, "distillation.trainable"), ("distillation__precision", "int8", "precision"),
    ("distillation__checkpoint_every", 0, "distillation.checkpoint_every"),
    ("distillation__explode", -1, "distillation.explode"), ("distillation__validation", -1, "validation"),
    ("distillation__caption_dropout", 1.5, "distillation.caption_dropout"),
    ("evaluation__resamples", 1, "evaluation.resamples"), ("evaluation__interval", 0, "evaluation.interval"),
    ("selection__rule", "all", "selection.rule"), ("selection__allowance", -1, "selection.allowance"),
    ("selection__confident", "maybe", "selection.confident"),
    ("report__title", 5, "report.title"), ("report__clips", 1000, "report.clips"), ("report__fps", 0, "report.fps"),
]  # fmt: skip


def test_settings(project: Project) -> None:
    """`check` stands before everything, also on a cached run."""
    original = Path("params.yaml").read_text()
    wrong = []
    for name, value, said in sample(SETTINGS, 40):
        try:
            with case(FAMILY):
                project.edit(**{name: value})
                stage_refused(project, "check", {}, said)
        except AssertionError as error:
            wrong.append(f"{name} = {value!r}: {error}")
        Path("params.yaml").write_text(original)
    assert not wrong, "\n".join(wrong)


def test_settings_files_that_are_none(project: Project) -> None:
    path = Path("params.yaml")
    original = path.read_bytes()
    twice = original + b"sampling: {}\n"
    texts = (b"", b"- a\n", b"a: [", b"\xff\xfe", b"a: !!python/object/apply:os.system ['true']\n", twice)
    for text in texts:
        with case(FAMILY):
            path.write_bytes(text)
            stage_refused(project, "check", {}, "params.yaml")


@pytest.mark.parametrize(
    ("changes", "stage", "arguments", "said"),
    [
        ({"teacher__blocks": ["down_0_0", "mid_0", "up_0_0", "up_9_0"]}, "inspect_teacher", {}, "up_9_0"),
        ({"teacher__blocks": ["down_0_0", "mid_0", "up_0_0", "up_0_1"]}, "inspect_teacher", {}, "down_1_0"),
        ({"sampling__frames": 17}, "inspect_teacher", {}, "at most 16"),
        ({"sampling__height": 18}, "inspect_teacher", {}, "sampling.height"),
        ({}, "ablate", {"block": "mid_9", "out": "new.parquet"}, "mid_9"),
        ({"clips__source": "folder"}, "clips", {"out": "new.parquet"}, "clips.path"),
        ({"clips__source": "folder", "clips__path": "micro"}, "clips", {"out": "new.parquet"}, "captions"),
        (
            {"clips__source": "folder", "clips__path": "micro", "clips__captions": "no.csv"},
            "clips", {"out": "new.parquet"}, "no.csv",
        ),
        ({"sampling__width": 24}, "clips", {"out": "new.parquet"}, "square"),
        ({"distillation__accumulate": 3}, "distill", {"name": "r2", "previous": "data/students/base",
          "order": "data/order/r2.json", "out": "new"}, "accumulate"),
        ({"distillation__trainable": ["nothing.*"]}, "distill", {"name": "r2", "previous": "data/students/base",
          "order": "data/order/r2.json", "out": "new"}, "nothing.*"),
        ({}, "distill", {"name": "r2", "previous": "data/students/r4", "order": "data/order/r2.json", "out": "new"},
         "deleted in r4"),
        ({}, "distill", {"name": "r2", "previous": "data/students/none", "order": "data/order/r2.json", "out": "new"},
         "student.json"),
        ({}, "distill", {"name": "r2", "previous": "data/students/base", "order": "data/order/r9.json", "out": "new"},
         "r9.json"),
    ],
)  # fmt: skip
def test_stages(project: Project, changes, stage: str, arguments, said: str) -> None:
    with case(FAMILY):
        project.edit(**changes)
        stage_refused(project, stage, arguments, said)


def test_an_extractor_that_takes_other_frames(project: Project) -> None:
    """I3D takes 16 frames; a file of another hash is not even opened."""
    from project import refused

    from leanmotion.features.extractors import I3DExtractor

    class Loaded(I3DExtractor):
        def __init__(self) -> None:
            pass

    with case(FAMILY):
        refused(lambda: Loaded().check_frames(8, 64, 64), "sampling.frames", "16")
    with case(FAMILY):
        Path("i3d.pt").write_bytes(b"not a script")
        project.edit(extractor__name="i3d", extractor__path="i3d.pt", extractor__sha256=None)
        stage_refused(project, "check", {}, "i3d.pt", "sha256")


@pytest.mark.parametrize("text", ["", "\n\n  \n", "# only\n# comments\n"])
def test_prompt_files_that_hold_none(project: Project, text: str) -> None:
    with case(FAMILY):
        Path("prompts.txt").write_text(text)
        project.edit(prompts__source="prompts.txt")
        stage_refused(project, "check", {}, "prompts.txt", "holds no prompts")


def test_odd_prompts_are_drawn_and_come_back_as_they_are(project: Project) -> None:
    """Quotes, markup, emoji, line ends of Windows, 10,000 characters: refused never, altered never."""
    from project import run

    odd = [
        'a "quoted" dog',
        "it's; $(rm -rf /) `x` \\n",
        "<script>alert(1)</script>",
        "🎬 crème 猫 \u202e",
        LONG.strip(),
    ]
    Path("prompts.txt").write_bytes("\r\n".join(odd).encode())
    project.edit(prompts__source="prompts.txt", prompts__rank=5, prompts__negative="line\nbreak 'x' 🙈")
    with case(FAMILY):
        run("prompts")
        run("generate", split="rank", seeds="a", out="new.parquet")
        rows = read_table("new.parquet", "videos")
        assert sorted(rows["prompt"].to_pylist()) == sorted(odd)


class _Payload:
    """Unpickled, it leaves a mark."""

    def __reduce__(self) -> Any:
        return (Path("unpickled").write_text, ("it ran",))


def _write_adapter(tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, "micro/adapter/diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("wrong", ["nan", "vae nan", "widths", "layers", "sdxl", "lora", "pickle", "pickled base",
                                   "remote code", "motion base", "empty"])  # fmt: skip
def test_weights(project: Project, teacher_folder: Any, wrong: str) -> None:
    adapter = Path("micro/adapter")
    weights = adapter / "diffusion_pytorch_model.safetensors"
    said: tuple[str, ...] = ("micro/adapter", "get the whole folder")
    if wrong in {"nan", "vae nan"}:
        path = weights if wrong == "nan" else Path("micro/base/vae/diffusion_pytorch_model.safetensors")
        tensors = load_file(path)
        name = next(key for key in tensors if key.endswith("weight"))
        tensors[name].view(-1)[0] = float("nan")
        save_file(tensors, path, metadata={"format": "pt"})
        said = ("holds NaN or infinity", name)
    elif wrong in {"widths", "layers"}:
        other = teacher_folder(levels=4) if wrong == "widths" else teacher_folder(levels=2, layers=2)
        shutil.rmtree(adapter)
        shutil.copytree(other.adapter, adapter)
        said = ("teacher.adapter", "different architectures")
    elif wrong == "sdxl":
        tensors = {}
        for side in ("down", "up"):
            for level, width in enumerate((320, 640, 1280) if side == "down" else (1280, 640, 320)):
                tensors[f"{side}_blocks.{level}.motion_modules.0.temporal_transformer.norm.weight"] = torch.ones(width)
        save_file(tensors, "adapter.safetensors")
        project.edit(teacher__adapter="adapter.safetensors")
        said = ("adapter.safetensors", "SDXL", "Stable Diffusion 1.5")
    elif wrong == "lora":
        save_file({"down_blocks.0.motion_modules.0.to_q.lora.up.weight": torch.ones(2, 2)}, "adapter.safetensors")
        project.edit(teacher__adapter="adapter.safetensors")
        said = ("adapter.safetensors", "LoRA")
    elif wrong == "pickle":
        Path("adapter.ckpt").write_bytes(pickle.dumps({"state_dict": _Payload()}))
        project.edit(teacher__adapter="adapter.ckpt")
        said = ("adapter.ckpt", "convert it to .safetensors")
    elif wrong == "pickled base":
        Path("micro/base/unet/diffusion_pytorch_model.safetensors").unlink()
        Path("micro/base/unet/diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"x": _Payload()}))
        said = ("teacher.base", "micro/base")
    elif wrong == "remote code":
        index = json.loads(Path("micro/base/model_index.json").read_text())
        Path("micro/base/unet/evil.py").write_text("from pathlib import Path\nPath('unpickled').write_text('it ran')\n")
        Path("micro/base/model_index.json").write_text(json.dumps(index | {"unet": ["evil", "Evil"]}))
        said = ("teacher.base", "micro/base")
    elif wrong == "motion base":
        config = json.loads(Path("micro/base/unet/config.json").read_text())
        index = json.loads(Path("micro/base/model_index.json").read_text())
        Path("micro/base/model_index.json").write_text(json.dumps(index | {"unet": ["diffusers", "UNetMotionModel"]}))
        Path("micro/base/unet/config.json").write_text(json.dumps(config | {"_class_name": "UNetMotionModel"}))
        said = ("teacher.base",)
    else:
        shutil.rmtree(adapter)
        adapter.mkdir()
    with case(FAMILY):
        stage_refused(project, "inspect_teacher", {}, *said)
        assert not Path("unpickled").exists(), "code of a file ran"


def test_seeds_beyond_64_bits_on_the_command_line(finished: Project) -> None:
    import typer.testing

    from leanmotion.commands.cli import app

    with case(FAMILY):
        words = ["generate", "--prompt", "x", "-o", "x.gif", "--seed", str(2**70)]
        done = typer.testing.CliRunner().invoke(app, words)
        assert done.exit_code == 2 and "--seed" in done.output
    assert load_settings(finished.folder / "params.yaml")
