"""`check` meets all that settings and files alone would stop a later stage at."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from flow import PACKAGE, closure, modules
from models import TEXT_WIDTH, seeded
from safetensors.torch import load_file, save_file
from tiny import BLOCKS as BLOCKS_OF_TINY
from tiny import tiny_params

from leanmotion.checking.refusals import REFUSALS, refuse
from leanmotion.clips.sources import check_shape
from leanmotion.clips.video_folder import folder_clips
from leanmotion.cost.inspection import inspect_teacher
from leanmotion.distillation.rounds import drawing_of, how_trained
from leanmotion.distillation.trainable import trained_parameters
from leanmotion.errors import LeanmotionError
from leanmotion.evaluation.selection import RoundEvidence, select
from leanmotion.model.base_kinds import BLOCKS, PLAIN
from leanmotion.model.sampler import Sampler
from leanmotion.model.teacher import load_base, load_pipeline
from leanmotion.pipeline.code_address import definitions
from leanmotion.pipeline.digests import file_sha256
from leanmotion.pipeline.settings import Settings
from leanmotion.probing.probe_sets import probes_of
from leanmotion.videos.codec import encode

ROOT = PACKAGE.parent


@pytest.fixture
def place(teacher_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A teacher of its own, to be spoilt, in a folder where stages could run."""
    folder = teacher_folder(levels=2, layers=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEANMOTION_DEVICE", "cpu")
    for part in ("base", "adapter"):
        shutil.copytree(getattr(folder, part), tmp_path / part)
    return SimpleNamespace(base=tmp_path / "base", adapter=tmp_path / "adapter", folder=tmp_path)


def settings_of(place: SimpleNamespace, **sections: Any) -> Settings:
    params = tiny_params(place, ROOT / "data/extractor")
    for name, changes in sections.items():
        params[name] = {**params[name], **changes}
    return Settings.model_validate(params)


def refused(call: Callable[[], Any], *said: str) -> None:
    with pytest.raises(LeanmotionError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 700 and all(words in line for words in said), line


def with_scheduler(place: SimpleNamespace, kind: str, **config: Any) -> None:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    getattr(diffusers, kind)(**betas, **config).save_pretrained(place.base / "scheduler")
    index = json.loads((place.base / "model_index.json").read_text())
    (place.base / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", kind]}))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def with_nan(tensors: dict[str, torch.Tensor]) -> None:
    next(iter(tensors.values())).view(-1)[0] = float("nan")


def deeper_vae(place: SimpleNamespace) -> None:
    """A VAE of five levels: of 16 pixels it makes one."""
    from diffusers import AutoencoderKL

    config: Any = AutoencoderKL.load_config(place.base / "vae")
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 5, "up_block_types": ["UpDecoderBlock2D"] * 5}
    made: Any = AutoencoderKL.from_config({**config, **kinds, "block_out_channels": [8] * 5})
    made.save_pretrained(place.base / "vae")


def other_widths(place: SimpleNamespace) -> None:
    how = {"motion_layers_per_block": 1, "motion_num_attention_heads": 2, "motion_norm_num_groups": 4}
    made: Any = diffusers.MotionAdapter(block_out_channels=(16, 16), motion_max_seq_length=16, **how)  # pyright: ignore
    made.save_pretrained(place.adapter)


def torn_archive(place: SimpleNamespace) -> None:
    """Weights as torch writes them, with other bytes in the middle of a tensor: torch maps them, and sees nothing."""
    file = place.adapter / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    content = bytearray(file.with_suffix(".bin").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 16] = bytes(16)
    file.with_suffix(".bin").write_bytes(content)


def test_an_archive_without_checksums_is_taken(place: SimpleNamespace) -> None:
    """Torch can be told to compute none."""
    file = place.adapter / "diffusion_pytorch_model.safetensors"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(load_file(file), file.with_suffix(".bin"))
    finally:
        torch.serialization.set_crc32_options(before)
    file.unlink()
    inspect_teacher(settings_of(place))


def write_captions(place: SimpleNamespace, text: str) -> dict[str, Any]:
    (place.folder / "captions.csv").write_text(text)
    return {"clips": {"source": "folder", "path": str(place.folder), "captions": "captions.csv"}}


def write_script(place: SimpleNamespace, body: str) -> dict[str, Any]:
    """A TorchScript file in the extractor's place, and settings that take it."""
    source = "import torch\n\nclass Script(torch.nn.Module):\n    def forward(self, " + body
    (place.folder / "script.py").write_text(source)
    spec = importlib.util.spec_from_file_location("script", place.folder / "script.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.jit.script(module.Script()).save("i3d.pt")
    extractor = {"name": "i3d", "path": "i3d.pt", "sha256": file_sha256(Path("i3d.pt"))}
    return {"extractor": extractor, "sampling": {"frames": 16, "height": 16, "width": 16}}


I3D = "x, rescale: bool = False, resize: bool = False, return_features: bool = True):\n        return "

# What a user has: a change of files, which may give settings; settings; what the line says; the stage's own function
# that stops at the same, where the list calls another one than the stage does.
CASES: dict[str, tuple[Callable[[Any], Any] | None, dict[str, Any], tuple[str, ...], Callable[..., Any] | None]] = {
    "a batch that accumulate does not divide": (
        None, {"distillation": {"batch": 8, "accumulate": 3}}, ("distillation", "accumulate must divide batch"),
        lambda s: how_trained(s, 2),
    ),
    "no loss at all": (
        None, {"distillation": {"output_weight": 0.0, "feature_weight": 0.0}}, ("one above 0",),
        lambda s: how_trained(s, 2),
    ),
    "validation under a scheduler with a memory": (
        lambda p: with_scheduler(p, "DPMSolverMultistepScheduler"), {"distillation": {"validation": 4}},
        ("sampling.scheduler", "DPMSolverMultistepScheduler", "distillation.validation"),
        lambda s: drawing_of(s, load_base(s.teacher).scheduler),
    ),
    "trajectories under such": (
        lambda p: with_scheduler(p, "UniPCMultistepScheduler"), {"distillation": {"inputs": "teacher"}},
        ("sampling.scheduler", "UniPCMultistepScheduler", "distillation.inputs"),
        lambda s: drawing_of(s, load_base(s.teacher).scheduler),
    ),
    "a scheduler that stops": (
        lambda p: with_scheduler(p, "PNDMScheduler"), {}, ("sampling.scheduler base", "PNDMScheduler", "2 steps"),
        lambda s: Sampler(load_pipeline(s.teacher), s.sampling),
    ),
    "more steps than LCM was distilled in": (
        None, {"sampling": {"scheduler": "lcm", "steps": 60}}, ("sampling.scheduler lcm", "60 steps"),
        lambda s: Sampler(load_pipeline(s.teacher), s.sampling),
    ),
    "a prediction that has no target": (
        lambda p: edit_json(p.base / "scheduler/scheduler_config.json", prediction_type="flow"), {}, ("flow",), None,
    ),
    "a part that does not train": (
        None, {"distillation": {"trainable": ["motion.nothing"]}}, ("distillation.trainable", "'motion.nothing'"),
        lambda s: trained_parameters(load_pipeline(s.teacher).unet, ["motion.nothing"]),
    ),
    "a unit that there is not": (
        None, {"distillation": {"trainable": ["up_1_1-block7"]}}, ("distillation.trainable", "'up_1_1-block7'"),
        lambda s: trained_parameters(load_pipeline(s.teacher).unet, ["up_1_1-block7"]),
    ),
    "accuracy that nobody reads": (
        lambda p: (p.folder / "p.txt").write_text("a cat\n"),
        {"prompts": {"source": "p.txt"}, "selection": {"rule": "accuracy"}}, ("selection.rule accuracy",),
        lambda s: select([unread()], "accuracy", 0.5),
    ),
    "more attentions than there are": (
        None, {"probe": {"sets": {"a": {"granularity": "attention", "counts": [1], "single": 15}}}},
        ("probe.sets.a", "asks for 15 units, the model has 14 attentions"),
        lambda s: probes_of("a", s.probe.sets["a"], _similarities(14), seed=0),
    ),
    "sprites that are not square": (
        None, {"sampling": {"width": 40}}, ("clips.source", "square"), check_shape,
    ),
    "no folder of videos": (None, {"clips": {"source": "folder"}}, ("clips.path", "folder"), None),
    "no captions": (
        None, {"clips": {"source": "folder", "path": ".", "captions": "none.csv"}}, ("clips.captions",), None,
    ),
    "captions of other columns": (
        lambda p: write_captions(p, "a,b\n1,2\n"), {}, ("captions.csv", "has columns a, b"), None,
    ),
    "not one clip": (
        lambda p: write_captions(p, "file,caption\nno.mp4,x\n"), {}, ("not one clip", "no.mp4: no such file"), None,
    ),
    "captions without a row": (lambda p: write_captions(p, "file,caption\n"), {}, ("not one clip", "no rows"), None),
    "a name outside, after a clip": (
        lambda p: [make_video(p.folder / "a.mkv"), write_captions(p, "file,caption\na.mkv,x\n../b.mkv,y\n")][1], {},
        ("row 2", "not inside"),
        lambda s: list(folder_clips(".", "captions.csv", frames=3, height=8, width=8, skipped=[])),
    ),
    "other blocks": (
        None, {"teacher": {"blocks": [*BLOCKS_OF_TINY, "up_2_0"]}}, ("teacher.blocks", "up_2_0"), inspect_teacher,
    ),
    "too many frames": (None, {"sampling": {"frames": 17}}, ("sampling.frames is 17",), inspect_teacher),
    "one frame": (None, {"sampling": {"frames": 1}}, ("sampling.frames is 1",), None),
    "a size that the VAE does not make": (
        deeper_vae, {"sampling": {"height": 24, "width": 24}}, ("sampling.height is 24", "16"), inspect_teacher,
    ),
    "weights of another teacher": (None, {"teacher": {"sha256": "0" * 64}}, ("teacher.sha256",), inspect_teacher),
    "a weight that is no number": (
        lambda p: edit_weights(p.base / "unet/diffusion_pytorch_model.safetensors", with_nan), {}, ("NaN", "unet"),
        inspect_teacher,
    ),
    "a picture network that is no number": (
        lambda p: edit_weights(p.base / "vae/diffusion_pytorch_model.safetensors", with_nan), {}, ("NaN", "vae"),
        inspect_teacher,
    ),
    "an adapter of other widths": (
        other_widths, {}, ("teacher.adapter", "different architectures"), lambda s: load_pipeline(s.teacher),
    ),
    "an adapter that is damaged inside": (
        torn_archive, {}, ("teacher: adapter/diffusion_pytorch_model.bin is damaged inside",), inspect_teacher,
    ),
    "an adapter that is none": (
        lambda p: (p.adapter / "config.json").write_text("{}"), {}, ("adapter", "config.json is of a None"), None,
    ),
    "a base without weights": (
        lambda p: (p.base / "unet/diffusion_pytorch_model.safetensors").unlink(), {}, ("teacher.base",), None,
    ),
    "a base without a tokenizer": (
        lambda p: edit_json(p.base / "model_index.json", tokenizer=[None, None]), {}, ("does not load",), None,
    ),
    "a prompt file that holds none": (
        lambda p: (p.folder / "p.txt").write_text("# a\n"), {"prompts": {"source": "p.txt"}}, ("no prompts",), None,
    ),
    "a script of another signature": (
        lambda p: write_script(p, "x):\n        return x"), {}, ("i3d.pt", "no I3D"), None,
    ),
    "a script of other features": (
        lambda p: write_script(p, I3D + "x.flatten(1)[:, :7]\n"), {}, ("i3d.pt", "[1, 7]"), None,
    ),
    "a script that gives no tensor": (
        lambda p: write_script(p, I3D + "[x]\n"), {}, ("i3d.pt", "list"), None,
    ),
    "an extractor of another hash": (None, {"extractor": {"sha256": "0" * 64}}, ("sha256",), None),
    "an export that is a link": (
        lambda p: [(p.folder / "data").mkdir(), (p.folder / "data/export").symlink_to(p.folder)], {},
        ("data/export", "a link"), None,
    ),
}  # fmt: skip


def unread() -> RoundEvidence:
    """A round whose clips nobody has read."""
    told = {field.name: 0.0 for field in dataclasses.fields(RoundEvidence)}
    return RoundEvidence(**{**told, "round": "r1", "removed": 1, "accuracy": None})  # pyright: ignore


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def make_video(path: Path) -> None:
    path.write_bytes(encode(np.zeros((3, 32, 32, 3), np.uint8)))


def _similarities(units: int) -> pd.DataFrame:
    row = {"granularity": "attention", "cosine": 0.5, "timestep": 1, "calls": 1}
    return pd.DataFrame([{**row, "unit": f"u{i}"} for i in range(units)])


@pytest.mark.parametrize("name", CASES)
def test_check_meets_what_a_later_stage_stops_at(name: str, place: SimpleNamespace) -> None:
    change, sections, said, later = CASES[name]
    found = change(place) if change else None
    settings = settings_of(place, **{**(found if isinstance(found, dict) else {}), **sections})
    refused(lambda: refuse(settings), *said)
    if later is not None:
        refused(lambda: later(settings), said[-1])


def test_what_fits_is_not_refused(place: SimpleNamespace) -> None:
    opened = refuse(settings_of(place))
    assert opened.pipeline.unet is not None and opened.extractor.dimensions


# Bases

UNETS: dict[str, tuple[dict[str, Any], str]] = {
    "inpainting": ({"in_channels": 9}, "inpainting"),
    "instruct": ({"in_channels": 8}, "InstructPix2Pix"),
    "learned variance": ({"out_channels": 8}, "out_channels 8"),
    "no middle block": ({"mid_block_type": None}, "no middle block"),
    "a middle block of resnets": ({"mid_block_type": "UNetMidBlock2D"}, "middle block"),
    "SDXL": (
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64},
        "SDXL",
    ),
    "LCM": ({"time_cond_proj_dim": 16}, "LCM"),
    "another activation": ({"act_fn": "gelu"}, "activation"),
    "classes": ({"num_class_embeds": 10}, "classes"),
    "another text encoder": ({"encoder_hid_dim": 16, "encoder_hid_dim_type": "text_proj"}, "text"),
    "scale and shift": ({"resnet_time_scale_shift": "scale_shift"}, "resnet"),
    "only cross-attention": ({"only_cross_attention": True}, "attention"),
    "two cross-attentions": ({"dual_cross_attention": True}, "attention"),
    "another width of texts": ({"cross_attention_dim": TEXT_WIDTH // 2}, "its parts are of two models"),
    "other blocks": ({"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "down_block_types"),
}


@pytest.mark.parametrize("name", UNETS)
def test_unets_of_other_kinds(name: str, place: SimpleNamespace) -> None:
    changes, said = UNETS[name]
    base: Any = StableDiffusionPipeline.from_pretrained(place.base)
    config = {key: value for key, value in base.unet.config.items() if not key.startswith("_")} | changes
    seeded(0, lambda: UNet2DConditionModel.from_config(config)).save_pretrained(place.base / "unet")
    settings = settings_of(place)
    refused(lambda: refuse(settings), "teacher.base", said)
    refused(lambda: inspect_teacher(settings), "teacher.base", said)


def test_what_a_motion_unet_takes_for_granted_is_all_that_diffusers_would_drop() -> None:
    """Every setting of an image UNet that a motion UNet does not have is either plain, or changes no result."""
    theirs = inspect.signature(UNet2DConditionModel.__init__).parameters
    ours = inspect.signature(diffusers.UNetMotionModel.__init__).parameters
    dropped = {name for name in theirs if name not in ours} - {"self"}
    harmless = {"dropout", "upcast_attention", "attention_head_dim", "addition_embed_type_num_heads"}
    named = {plain.setting for plain in PLAIN}
    assert dropped - named == harmless
    defaults = {name: parameter.default for name, parameter in theirs.items()}
    assert all(defaults[plain.setting] == plain.value for plain in PLAIN)
    assert set(BLOCKS) < set(theirs)


# The walk

STAGE = "an artefact of an earlier stage is missing, damaged, or of other settings"
OUTCOME = "what was drawn, trained or measured came out so"
CALL = "a word of the command line, or a call from Python"
HERE = "the environment: ranks, devices, locks, DVC"
CODE = "our own source, or installed packages"
SCHEMA = "params.yaml's schema refuses it before"
SAME = "another function, which the list reaches, refuses the same before"
ELSEWHERE: dict[str, dict[str, str]] = {
    "clips.latents": {"write_clips": OUTCOME},
    "commands.cli": {"generate": CALL, "show": CALL},
    "commands.show": {"_refuse_unknown": CALL},
    "commands.drawing": {"draw_clips": CALL, "sampling_of": CALL},
    "commands.readme": {"replaced": CALL},
    "commands.readme_results": {"read_results": STAGE},
    "commands.solve": {"read_problem": STAGE, "share_of": CALL, "solve": CALL, "write_round": CALL, "time_set": CALL},
    "commands.sweep": {"pending": STAGE, "sweep_together": HERE},
    "cost.in_call": {"Watched": OUTCOME},
    "cost.latency": {"_timed": OUTCOME},
    "distillation.checkpoints": {"CheckpointStore": STAGE},
    "distillation.clip_source": {"ClipSource": STAGE},
    "distillation.kept_rounds": {"KeptRounds": STAGE},
    "distillation.losses": {"v_weights": SAME},
    "distillation.rounds": {"_named": OUTCOME},
    "distillation.setup": {"shares_of": HERE},
    "distillation.teacher_clips": {"TeacherClips": OUTCOME},
    "distillation.trainable": {"trained_parameters": CALL},
    "distillation.training": {"distil": OUTCOME, "_distance": OUTCOME},
    "distillation.training_inputs": {"CaptionedLatents": CALL},
    "evaluation.confirmation": {"confirm": STAGE, "_distances": OUTCOME},
    "evaluation.evaluation": {"evaluate_split": OUTCOME},
    "evaluation.looks": {"sharpness": SCHEMA, "movement": SAME},
    "evaluation.selection": {"select": SCHEMA, "_at_knee": STAGE, "_value": STAGE},
    "export.export": {"_check_cost": OUTCOME, "_check_forms": OUTCOME},
    "export.lean": {"_listed": CALL, "lean": CALL},
    "export.precision": {"round_motion": OUTCOME},
    "features.embedding": {"_rows": OUTCOME},
    "features.feature_tables": {"FeatureSet": STAGE},
    "features.video_tables": {"find_clips": STAGE, "require_pairs": STAGE},
    "influence.output_changes": {"_require_finite": OUTCOME},
    "influence.partial_calls": {"PartialCalls": OUTCOME},
    "influence.parts": {"_read": STAGE},
    "influence.step_weights": {"answer": SAME},
    "model.judged_sampling": {"judged_scheduler": CALL},
    "model.memory": {"place": HERE, "recomputed": HERE},
    "model.original_format": {"write_original": CALL},
    "model.pruned_adapter": {"read_pruned_config": CALL, "apply_pruned": CALL, "_json": CALL},
    "model.pruned_pipeline": {
        "_FreeNoise": CALL, "_refuse_long": CALL, "checked_class": CALL, "load_base": CALL, "refuse_layers": CALL,
    },
    "model.whole_saving": {"_refuse_frames": CALL, "save_whole": CALL},
    "model.removal": {"_checked": CALL, "_layer_normed": CALL},
    "model.sampler": {"_require_finite": OUTCOME},
    "model.samplers": {"Samplers": STAGE, "_named": OUTCOME},
    "model.student": {"Student": STAGE, "plan_round": STAGE},
    "model.teacher": {"TeacherRecord": STAGE, "verify": STAGE, "check_dtype": STAGE},
    "probing.similarity": {"SimilarityRecorder": CALL, "_finite": OUTCOME},
    "ranking.fvd": {
        "gaussian": CALL, "frechet_distance": CALL, "motion_terms": OUTCOME, "frechet_distance_infinity": CALL,
        "checked": SCHEMA, "checked_pair": STAGE,
    },
    "ranking.ranking": {"_check": SCHEMA},
    "ranking.resampling": {"complementary_halves": SCHEMA},
    "report.artefacts": {"read_artefacts": STAGE, "_confirmed": STAGE},
    "report.gallery": {"mosaic": CALL, "write_clips": CALL, "matching_clips": STAGE},
    "report.page": {"write_report": OUTCOME},
    "report.sections.media": {"_rows": STAGE},
    "study.carry_over": {"conditions": CALL},
    "study.plan": {"trials": CALL},
    "videos.codec": {"decode": STAGE, "mp4_bytes": CODE, "contact_sheet": CALL, "_checked": CALL},
    "videos.store": {"ChunkStore": STAGE},
}  # fmt: skip
"""What raises a `LeanmotionError` and is not reached by the list: module -> function or class -> why it cannot be."""


def test_every_error_is_met_by_check_or_is_not_of_settings_and_files() -> None:
    """All that raise in the library, but for `pipeline`: what no result depends on reads settings and artefacts."""
    reached = {(this.module, this.name) for this in definitions("leanmotion.checking.refusals:refuse")}
    found: dict[str, set[str]] = {}
    for path in modules():
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name.startswith("pipeline."):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            raises = [n for n in ast.walk(node) if isinstance(n, ast.Raise) and n.exc is not None]
            if any("LeanmotionError" in ast.unparse(n.exc) for n in raises if n.exc is not None):
                what = getattr(node, "name", "")
                if (f"leanmotion.{name}", what) not in reached:
                    found.setdefault(name, set()).add(what)
    assert found == {name: set(functions) for name, functions in ELSEWHERE.items()}


def test_later_stages_meet_what_the_list_holds() -> None:
    """By the same function, or one that it calls: both stand in modules that the stage imports."""
    scripts = {"inspect": "inspect_teacher", "select": "select_round"}
    for refusal in REFUSALS:
        home = PACKAGE.parent / f"{refusal.by.__module__.replace('.', '/')}.py"
        script = ROOT / f"stages/{scripts.get(refusal.stage, refusal.stage)}.py"
        assert home in closure(script) or "pipeline" in home.parts, refusal.by.__name__
