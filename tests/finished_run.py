"""Artefacts as a finished pipeline leaves them, made up: for what only reads them."""

from pathlib import Path
from typing import Any

import numpy as np
from committed import settings

from leanmotion.pipeline.records import write_record
from leanmotion.pipeline.settings import Settings
from leanmotion.pipeline.tables import TableWriter, write_table
from leanmotion.report.page import write_report
from leanmotion.videos.codec import encode

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert('2')>",
    "javascript:alert(3)</script><!--",
    "{{ 7 * 7 }} & 'quotes' \u2028",
]
BLOCKS = {
    7: ["down_0_0", "down_0_1", "down_1_0", "mid_0", "up_0_0", "up_1_0", "up_1_1"],
    6: ["down_0_0", "down_0_1", "down_1_0", "up_0_0", "up_1_0", "up_1_1"],
}
FRAMES, SIDE, CLIPS = 3, 16, 4


class Run:
    """A small set of artefacts in a folder, as a finished pipeline would leave it."""

    def __init__(self, root: Path, blocks: int = 7, heads: bool = True, chosen: str = "r2") -> None:
        self.data, self.metrics = root / "data", root / "metrics"
        self.out, self.plots = self.data / "report.html", self.metrics / "plots"
        self.carried_over = self.metrics / "carry_over.parquet"
        self.blocks, self.heads, self.chosen = BLOCKS[blocks], heads, chosen
        self.random = np.random.default_rng(blocks)
        self.order = [self.blocks[i] for i in self.random.permutation(blocks)]
        raw = settings()
        raw["teacher"]["blocks"] = self.blocks
        raw["prompts"] |= {"rank": CLIPS, "select": CLIPS, "report": CLIPS, "confirm": 2}
        raw["sampling"] |= {"frames": FRAMES, "height": SIDE, "width": SIDE}
        raw["similarity"]["prompts"] = 2
        raw["influence"]["prompts"] = raw["probe"]["prompts"] = CLIPS
        raw["rounds"] = {"r2": {"count": 2, "from": "base"}, "all": {"count": blocks, "from": "r2"}}
        raw["probe"]["sets"] = {
            "large": {"granularity": "temporal_transformer", "counts": [1, 3]},
            "small": {"granularity": "attention", "counts": [1, 3], "single": 1},
        }
        raw["report"] = {"title": HOSTILE[0], "clips": 3, "fps": 8}
        self.settings = Settings.model_validate(raw)
        self.removed = {"r2": self.order[:2], "all": self.blocks}
        self._tables()
        self._rounds()
        self._videos()

    def write(self) -> str:
        size = write_report(
            self.settings, data=self.data, carried_over=self.carried_over, out=self.out, plots=self.plots
        )
        page = self.out.read_text(encoding="utf-8")
        assert size == len(page.encode())
        return page

    def table(self, name: str, artefact: str, rows: list[dict[str, Any]], **meta: str) -> None:
        write_table(self.data / f"{name}.parquet", artefact, rows, meta=meta)

    def json(self, path: Path, value: Any) -> None:
        write_record(path, value)

    def three(self, name: str, value: float) -> dict[str, float]:
        return {name: value, f"{name}_low": value * 0.8, f"{name}_high": value * 1.3}

    def number(self, high: float = 1.0) -> float:
        return float(self.random.uniform(0.1, high))

    def _tables(self) -> None:
        units, similarity = [], []
        for i, block in enumerate(self.blocks):
            for granularity, ends in (
                ("temporal_transformer", [""]),
                ("transformer_block", ["-block0"]),
                ("attention", ["-block0-attn1", "-block0-attn2"]),
            ):
                for end in ends:
                    size = 1000 * (i + 1) // len(ends)
                    level, deepest = int(block.split("_")[1]), int(max(b for b in self.blocks if b[0] == "d")[5])
                    depth = {"d": level, "m": deepest, "u": deepest - level}[block[0]]
                    same = {"unit": block + end, "block": block, "granularity": granularity}
                    units.append(
                        {**same, "address": "x", "depth": depth, "channels": 8, "parameters": size, "macs": 50 * size}
                    )
                    for step in (900, 500, 100):
                        residual = self.number() if granularity == "attention" else None
                        similarity.append(
                            {**same, "timestep": step, "cosine": self.number(), "cosine_std": 0.1,
                             "residual_cosine": residual, "count": 8}
                        )  # fmt: skip
        self.table("units", "units", units)
        self.table("similarity", "similarity", similarity)
        self._influence(units)
        meta = {
            "extractor": "sprites", "extractor_sha256": "0" * 64, "extractor_official": "false", "videos": str(CLIPS),
            "extractor_dimensions": "8", "frames": str(FRAMES), "criterion": "fvd", "interval": "0.9",
            "null_fvd": "3.21", "split_half_tau": "0.7", "videos_to_settle": "40.0",
        }  # fmt: skip
        ranking = [
            {"block": block, "position": i, "depth": 0, "parameters": 1000 + i, "macs": 5e4 + i, "latency": None,
             "score": float(i), **self.three("fvd", 0.37 + i * 1.7), **self.three("kvd", self.number()),
             **self.three("paired", self.number()), **self.three("motion", self.number()), "rank": i, "rank_low": i,
             "rank_high": i, "least_probability": 0.5, "tied": i < 2, "similarity": self.number(),
             "similarity_block": self.number(), "similarity_attention": self.number(), "influence": self.number()}
            for i, block in enumerate(self.order)
        ]  # fmt: skip
        self.table("ranking", "ranking", ranking, **meta)
        pairs = [
            {"block": one, "other": other, "probability": 0.6 if {i, j} == {0, 1} else 0.99 if i < j else 0.01}
            for i, one in enumerate(self.order)
            for j, other in enumerate(self.order)
            if i != j
        ]
        self.table("pairs", "pairs", pairs)
        tau = {"kendall": 0.5, "kendall_low": 0.4, "kendall_high": 0.6, "spearman": 0.5}
        self.table("correlations", "correlations", [{"first": "fvd", "second": "paired", **tau}])
        self.json(
            self.metrics / "ranking.json",
            {"extractor": "sprites", "null_fvd": 3.21, "split_half_tau": 0.7, "videos_to_settle": 40.0},
        )
        criteria = [
            {"criterion": name, "granularity": granularity, "units": len(self.blocks), "kendall": 0.5,
             "kendall_low": 0.4, "kendall_high": 0.6, "macs": share * 1e6, "share": share}
            for granularity, names in (("temporal_transformer", ("similarity", "influence", "macs", "fvd_half")),
                                       ("attention", ("similarity", "influence")))
            for name, share in zip(names, (0.02, 0.1, 0.0, 0.5), strict=False)
        ]  # fmt: skip
        self.table("criteria", "criteria", criteria)
        whole = {name: sum(u[name] for u in units if u["unit"] == u["block"]) for name in ("parameters", "macs")}
        weights = {
            "sha256": "f" * 64, "files": {"adapter/x.safetensors": "e" * 64},
            **{name: 3 * size for name, size in whole.items()},
            **{f"motion_{name}": size for name, size in whole.items()},
        }  # fmt: skip
        self.json(self.data / "teacher.json", weights)
        self.macs = {"": weights["macs"], **{u["unit"]: u["macs"] for u in units if u["unit"] == u["block"]}}
        self.probes = [
            {"probe": f"{name}_{pick}_{count}", "granularity": granularity, "pick": pick, "count": count,
             "units": [block + end for block in self.blocks[:count]], "parameters": 100 * count, "macs": 9000 * count,
             "videos": CLIPS, "similarity": None, "influence": None, "fvd": fvd * count, "kvd": 0.1,
             **self.three("paired", 0.2), "motion": 0.3}
            for name, granularity, end, pick, counts, fvd in (
                ("large", "temporal_transformer", "", "similar", (1, 3), 0.21),
                ("large", "temporal_transformer", "", "random", (3,), 0.4),
                ("small", "attention", "-block0-attn1", "similar", (1, 3), 0.83),
                ("small", "attention", "-block0-attn1", "single", (1,), 0.5),
            )
            for count in counts
        ]  # fmt: skip
        self.table("probes", "probes", self.probes)

    def _influence(self, units: list[dict[str, Any]]) -> None:
        """Changes along three directions, at two steps, for four prompts."""
        influence, interaction = [], []
        for granularity in ("temporal_transformer", "transformer_block", "attention"):
            these = [unit for unit in units if unit["granularity"] == granularity]
            for step, weight in ((0, 0.5), (1, 0.2)):
                at = {"step": step, "timestep": 900.0 - step, "weight": weight}
                changes = self.random.normal(size=(len(these), CLIPS, 3))
                for i, unit in enumerate(these):
                    for other, theirs in zip(these[: i + 1], changes, strict=False):
                        values = (changes[i] * theirs).sum(axis=1)
                        pair = {"unit": other["unit"], "other": unit["unit"], "granularity": granularity}
                        interaction.append({**pair, **at, "value": values.mean(), "by_prompt": values.tolist()})
                    mean = float(values.mean())
                    labels = {name: unit[name] for name in ("unit", "block", "granularity")}
                    influence.append({**labels, **at, "variance": 9.0, **self.three("change", mean),
                                      "by_prompt": values.tolist()})  # fmt: skip
        spent = {"steps": 10, "macs_step": 100, "macs_walk": 1000, "prompts": CLIPS}
        for granularity in ("temporal_transformer", "transformer_block", "attention"):
            spent |= {f"macs_{granularity}": 5000, f"drawn_{granularity}": 100_000}
        meta = {name: str(value) for name, value in spent.items()}
        self.table("influence", "influence", influence, **meta)
        self.table("interaction", "interaction", interaction, **meta)

    def _timed(self, name: str, gone: int) -> dict[str, Any]:
        share = 0.5 * gone / len(self.blocks) * (1 + 0.1 * self.number())
        return {
            "variant": name, "blocks": gone, "parameters": 9000 - gone, "macs": 90000 - gone, "rounds": 3,
            "seconds": 0.1 * (1 - share), **self.three("saving", 0.1 * share), "saving_fraction": share,
            "clock": "processor",
        }  # fmt: skip

    def _rounds(self) -> None:
        total = len(self.blocks)
        ends = [self._timed("full", 0), self._timed("none", total)]
        watched = {**self._timed("watched", 0), "saving": -0.0002, "saving_low": -0.0005, "saving_high": 0.0001}
        self.table("profile", "profile", [*ends, watched, *(self._timed(block, 1) for block in self.blocks)])
        left = {name: self.macs[""] - sum(self.macs[block] for block in gone) for name, gone in self.removed.items()}
        rounds = [*ends, *({**self._timed(n, len(self.removed[n])), "macs": macs} for n, macs in left.items())]
        self.table("latency", "latency", [{**row, "predicted": 0.9 * row["saving"]} for row in rounds])
        rows = []
        for split in ("select", "report"):
            null = 3.0 + self.number()
            for name, arm, gone in (
                ("base", "original", 0), ("r2", "pruned", 2), ("r2", "distilled", 2), ("all", "pruned", total),
                ("all", "distilled", total),
            ):  # fmt: skip
                if (name, arm) == ("all", "distilled"):  # nothing is left to train: the same clips again
                    rows.append({**rows[-1], "arm": arm})
                    continue
                fvd = null if arm == "original" else null * (1 + gone * self.number(0.5))
                same_seeds = gone * (0.4 if arm == "distilled" else 0.5)
                accuracy = self.number() if self.heads else None
                rows.append(
                    {"round": name, "arm": arm, "split": split, "removed": gone, "parameters": 9000 - gone,
                     "macs": 90000 - gone, "videos": CLIPS, "null": null, **self.three("fvd_cross", fvd),
                     **self.three("excess", fvd / null - 1), **self.three("fvd", same_seeds), "kvd": 0.1,
                     **self.three("paired", 0.2), **self.three("motion", 0.3), "colour_accuracy": accuracy,
                     **self.three("sharpness", 0.9 + 0.1 * self.number()), **self.three("movement", 1.1),
                     "shape_accuracy": accuracy, "motion_accuracy": accuracy,
                     "motion_accuracy_low": accuracy and accuracy * 0.8,
                     "motion_accuracy_high": accuracy and min(accuracy * 1.2, 1.0)}
                )  # fmt: skip
        self.table("evaluation", "evaluation", rows)
        figures: dict[str, Any] = {"round": self.chosen, "rule": "excess", "reason": f"because of {HOSTILE[1]}"}
        for row in rows:
            if row["split"] == "report" and row["round"] in ("base", self.chosen):
                figures |= {f"{row['arm']}_{k}": v for k, v in row.items() if not isinstance(v, str) and v is not None}
        self.json(self.data / "selection.json", figures)
        self._confirmed(null)
        for name, gone in self.removed.items():
            student = {"round": name, "weights": "a" * 64, "removed": gone, "steps": 0}
            self.json(self.data / "students" / name / "student.json", student)
            # Its own record is of the weights and of what was found of them.
            self.json(self.data / "students" / name / "adapter/config.json", {"sha256": "b" * 64})
            trained = [] if name == "all" else range(30)
            losses = [
                {"step": i, "total": 2.0 / (i + 1), "task": 0.5, "output": 1.0 / (i + 1), "feature": 1.0 / (i + 1),
                 "task_weighted": None, "output_weighted": 1.0, "feature_weighted": 1.0, "learning_rate": 0.1,
                 "gradient_norm": 1.0}
                for i in trained
            ]  # fmt: skip
            self.table(f"students/{name}/losses", "losses", losses)

    def _confirmed(self, null: float) -> None:
        rows = []
        sets = ["all", "confirm/1", "confirm/2"] if self.chosen != "base" else []
        for norm, name in ((norm, name) for norm in ("clip", "frame") for name in sets):
            accuracy = {"motion_accuracy": 0.75, "original_motion_accuracy": 0.875} if self.heads else {}
            measured = {"fvd_cross": null * (1 + self.number()), "fvd": self.number(), "excess": self.number()}
            if name == "all":
                measured = {k: v for n, value in measured.items() for k, v in self.three(n, value).items()}
            rows.append(
                {"round": self.chosen, "removed": len(self.removed[self.chosen]), "motion_norm": norm, "set": name,
                 "captions": CLIPS, "videos": (2 if name == "all" else 1) * CLIPS, "null": null, **measured, **accuracy}
            )  # fmt: skip
        self.table("confirm", "confirm", rows)

    def carry_over(self, further: int, teacher: str = "f" * 64, weights: str = "b" * 64) -> None:
        """As `make carry-over` leaves it: four conditions; so many are further than another seed of the original."""
        rows = []
        for i, name in enumerate(["as judged", "another base", "16 frames, and longer", HOSTILE[1]]):
            near = {"excess": 0.1, "excess_low": -0.2, "excess_high": 0.4}
            excess = self.three("excess", 9.0) if 0 < i <= further else near
            rows.append(
                {"condition": name, "frames": 8, "steps": 6, "scheduler": "euler", "removed": 2, "videos": CLIPS,
                 "null": 3.0, **excess, **self.three("fvd", 1.0), **self.three("paired", 1.0)}
            )  # fmt: skip
        meta = {"teacher_sha256": teacher, "round": "r2", "student_weights": weights}
        write_table(self.carried_over, "carry_over", rows, meta=meta)

    def _videos(self) -> None:
        across = np.arange(SIDE)

        def clip(shift: int) -> np.ndarray:
            """A bar that moves, in a colour of its own."""
            frames = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
            for i in range(FRAMES):
                frames[i, :, (across + i + shift) % SIDE < 4] = 40 * (shift % 6), 200, 90
            return frames

        def video(name: str, variant: str, split: str, seeds: str) -> None:
            takes.setdefault(name, []).extend(
                {"variant": variant, "split": split, "seeds": seeds, "index": i, "prompt": HOSTILE[i], "seed": i,
                 "removed": [], "frames": FRAMES, "height": SIDE, "width": SIDE,
                 "video": encode(clip(i + 3 * len(takes)))}
                for i in range(CLIPS)
            )  # fmt: skip

        takes: dict[str, list[dict[str, Any]]] = {}
        video("full/rank_a", "full", "rank", "a")
        video("full/report_b", "full", "report", "b")
        for block in self.blocks:
            video(f"ablate/{block}", block, "rank", "a")
        for name in self.removed:
            for split in ("select", "report"):
                for arm in ("pruned", "distilled"):
                    video(f"rounds/{name}", arm, split, "b")
        for probe in self.probes:
            video(f"probe/{probe['probe'].split('_')[0]}", probe["probe"], "rank", "a")
        for name, rows in takes.items():
            with TableWriter(self.data / "videos" / f"{name}.parquet", "videos") as writer:
                for start in range(0, len(rows), CLIPS):
                    writer.write(rows[start : start + CLIPS])
