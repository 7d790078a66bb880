"""Nothing may quietly produce a wrong ranking: what is not finite, not comparable or not gone stops the stage."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ledger import case
from project import Project, refused, run_loud

from leanmotion.errors import LeanmotionError
from leanmotion.features.feature_tables import FeatureSet
from leanmotion.features.video_tables import require_pairs
from leanmotion.pipeline.tables import TableWriter, read_table, table_meta, write_table

FAMILY = "silent wrongs"


def _poison(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, where: int = 0) -> None:
    """The tensor that a function returns gets a NaN."""
    inner = getattr(owner, name)

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        value = inner(*args, **kwargs)
        with torch.no_grad():
            value.view(-1)[where] = float("nan")
        return value

    monkeypatch.setattr(owner, name, poisoned)


def test_latents_that_are_not_finite_name_variant_and_prompt(project: Project, monkeypatch) -> None:
    from leanmotion.model.sampler import Sampler

    prompts = read_table("data/prompts/rank.parquet", "prompts")["prompt"].to_pylist()
    _poison(monkeypatch, Sampler, "_denoise")
    with case(FAMILY):
        project.edit(sampling__steps=1)  # another address: nothing is in the store
        arguments = {"block": "mid_0", "out": "new.parquet"}
        said = refused(
            lambda: run_loud("ablate", arguments), "latents", "without mid_0", prompts[0][:20], "not finite", within=60
        )
        assert "seed" in said and not Path("new.parquet").exists()


def test_features_that_are_not_finite_name_variant_and_prompt(project: Project, monkeypatch) -> None:
    from leanmotion.features.extractors import SpritesExtractor

    inner = SpritesExtractor.features

    def poisoned(self: Any, clips: Any) -> Any:
        features = inner(self, clips)
        features[1, 2] = np.inf
        return features

    monkeypatch.setattr(SpritesExtractor, "features", poisoned)
    prompts = read_table("data/prompts/rank.parquet", "prompts")["prompt"].to_pylist()
    for path in Path(".scratch/features").glob("*.parquet"):
        path.unlink()
    with case(FAMILY):
        refused(lambda: run_loud("embed", {}), "features of ", prompts[1][:20], "not finite", within=60)


def test_losses_that_are_not_finite_name_round_and_captions(project: Project, monkeypatch) -> None:
    from leanmotion.distillation import losses

    arguments = {"name": "r2", "previous": "data/students/base", "order": "data/order/r2.json", "out": "new"}
    project.edit(distillation__seed=5)
    for name in ("output_loss", "feature_loss"):
        with case(FAMILY), monkeypatch.context() as patch:
            _poison(patch, losses, name)
            refused(lambda: run_loud("distill", arguments), "round r2", "step 0", "nan", "captions", within=60)
            assert not Path("new").exists()


def test_a_validation_loss_that_is_not_finite_is_no_verdict(project: Project, monkeypatch) -> None:
    from leanmotion.distillation import training

    arguments = {"name": "r2", "previous": "data/students/base", "order": "data/order/r2.json", "out": "new"}
    shutil.rmtree(".scratch/rounds")  # where this round is kept, finished
    monkeypatch.setattr(training, "drawn_distance", lambda setup, reference: float("nan"))
    with case(FAMILY):
        refused(lambda: run_loud("distill", arguments), "round r2", "validation distance", "nan", within=60)
        assert not Path("new").exists()


def test_latencies_and_similarities_that_are_not_finite(project: Project, monkeypatch) -> None:
    from leanmotion.cost import latency
    from leanmotion.probing.similarity import Moments

    inner = latency.measure_latency

    def odd(*args: Any, **kwargs: Any) -> Any:
        rows = inner(*args, **kwargs)
        rows[-1]["seconds"] = float("nan")
        return rows

    with case(FAMILY), monkeypatch.context() as patch:
        patch.setattr(latency, "measure_latency", odd)
        refused(lambda: run_loud("profile_blocks", {"out": "new.parquet"}), "UNet call of", "nan", within=60)
    with case(FAMILY), monkeypatch.context() as patch:
        patch.setattr(Moments, "mean", property(lambda self: float("nan")))
        refused(lambda: run_loud("similarity", {"out": "new.parquet"}), "down_0_0", "timestep", "not finite", within=60)
    assert not Path("new.parquet").exists()


def test_no_table_takes_what_is_not_finite(project: Project) -> None:
    for name, row in (
        ("ranking", {"block": "mid_0", "fvd": float("nan")}),
        ("profile", {"variant": "mid_0", "seconds": float("inf")}),
        ("evaluation", {"round": "r2", "arm": "distilled", "excess": float("-inf")}),
    ):
        with case(FAMILY), pytest.raises(LeanmotionError, match=r"of (block|variant|round) '(mid_0|r2)'.* not finite"):
            write_table("new.parquet", name, [row])
    assert not Path("new.parquet").exists()


def _altered(path: Path, change: Any, **meta: str) -> None:
    """A feature table with other rows or meta, written as by another run: valid, and not comparable."""
    table = read_table(path, "features")
    kept = {k: v for k, v in table_meta(table).items() if k not in {"digest", "artefact"}}
    with TableWriter(path, "features", {**kept, **meta}) as writer:
        writer.write(pd.DataFrame(change(table.to_pandas())))


@pytest.mark.parametrize(
    ("change", "meta", "said"),
    [
        (lambda rows: rows.assign(prompt=["another", *rows["prompt"][1:]]), {}, ("mid_0", "differ in prompt")),
        (lambda rows: rows.assign(seed=rows["seed"] + 1), {}, ("mid_0", "differ in seed")),
        (lambda rows: rows[:-1], {}, ("mid_0", "differ in number")),
        (lambda rows: rows, {"extractor": "i3d"}, ("mid_0.parquet", "another extractor")),
        (lambda rows: rows, {"extractor_sha256": "0" * 64}, ("mid_0.parquet", "another extractor")),
        (lambda rows: rows, {"sampling": '{"frames":4}'}, ("mid_0.parquet", "drawn with other settings")),
        (lambda rows: rows.assign(variant="up_0_0"), {}, ("second time",)),
    ],
    ids=["prompts", "seeds", "count", "extractor", "weights", "frames", "twice"],
)
def test_what_does_not_match_refuses_to_be_compared(project: Project, change, meta, said) -> None:
    with case(FAMILY):
        before = Path("data/ranking.parquet").read_bytes()
        _altered(Path("data/features/ablate/mid_0.parquet"), change, **meta)
        refused(lambda: run_loud("rank", {}), *said, within=60)
        assert Path("data/ranking.parquet").read_bytes() == before


def test_a_null_of_other_prompts_is_refused(project: Project) -> None:
    with case(FAMILY):
        _altered(
            Path("data/features/full/rank_b.parquet"), lambda rows: rows.assign(prompt=rows["prompt"][::-1].tolist())
        )
        refused(lambda: run_loud("rank", {}), "null", "differ in prompt", within=60)
    with case(FAMILY):
        one = FeatureSet([Path("data/features/full/rank_a.parquet")]).take("full", "rank", "a")
        require_pairs(one, one.assign(seed=one["seed"] + 1), same_seeds=False)


@pytest.mark.parametrize("wrong", ["weights", "still there", "still computed", "heads"])
def test_an_export_that_is_not_the_student_is_not_handed_over(project: Project, monkeypatch, wrong: str) -> None:
    from leanmotion.export import export
    from leanmotion.model.removal import Skip
    from leanmotion.model.units import motion_slots
    from leanmotion.pipeline.records import read_record, write_record

    write_record("data/selection.json", {**read_record("data/selection.json", made_by=""), "round": "r4"})
    before = project.files()
    if wrong == "weights":
        inner = export.save_portable

        def save(unet: Any, *args: Any, **kwargs: Any) -> Any:
            left: Any = next(slot.module for slot in motion_slots(unet) if not isinstance(slot.module, Skip))
            weight = left.proj_out.weight
            right = weight.detach().clone()
            with torch.no_grad():
                weight.mul_(1.5)
            try:
                return inner(unet, *args, **kwargs)
            finally:
                with torch.no_grad():
                    weight.copy_(right)

        monkeypatch.setattr(export, "save_portable", save)
    elif wrong == "heads":
        inner_load = export.load_adapter
        monkeypatch.setattr(export, "load_adapter", lambda path, **_: inner_load(path, heads=1, norm_groups=2))
    else:
        from leanmotion.distillation import rounds

        inner_student = rounds.student_unet

        def student(samplers: Any, this: Any) -> Any:
            unet = inner_student(samplers, this)
            slot = next(slot for slot in motion_slots(unet) if slot.block in this.removed)
            assert isinstance(slot.module, Skip)
            if wrong == "still there":
                whole = inner_student(samplers, type(this)(this.folder, "base", this.weights, ()))
                slot.parent[slot.index] = next(s for s in motion_slots(whole) if s.block == slot.block).module
            else:
                slot.module.add_module("computed", torch.nn.Linear(1, 1))
            return unet

        monkeypatch.setattr(export, "student_unet", student)
    with case(FAMILY):
        refused(lambda: run_loud("export", {}), "export", "not handed over", within=120)
        assert {k: v for k, v in project.files().items() if ".export.partial" not in k} == before
