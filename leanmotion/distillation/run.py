"""The state of one training: weights, their average, optimiser, scaler and loss rows; what a checkpoint holds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from leanmotion.distillation.objectives import Objective
from leanmotion.distillation.schedule import COLUMNS, TERMS, LossRow, ema_decay, learning_rate
from leanmotion.distillation.setup import Setup


class Run:
    """A training under way.

    Args:
        setup: what it trains, and who takes part.
        objective: what it makes small.
    """

    def __init__(self, setup: Setup, objective: Objective) -> None:
        self.setup, self.objective = setup, objective
        self.parameters = setup.parameters
        # No part of the checkpoint: after a kill the caller passes the same student again.
        # On the CPU: it is asked for once, if at all.
        self.initial = {name: p.detach().to("cpu", copy=True) for name, p in self.parameters.items()}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            setup.trained, lr=0.0, weight_decay=setup.settings.weight_decay, foreach=True
        )
        self.scaler = torch.amp.GradScaler(setup.device.type, enabled=setup.settings.precision == "fp16")
        self.rows: list[LossRow] = []

    @property
    def done(self) -> int:
        """Steps behind it."""
        return len(self.rows)

    def step(self) -> LossRow:
        """Gradients of the next step, clipped, and its loss row; the weights stay as they are."""
        setup, settings, weights = self.setup, self.setup.settings, self.objective.weights
        means = torch.zeros(len(weights), device=setup.device)
        asked = dict.fromkeys(weights, False)
        factor = self.scaler.scale(torch.ones((), device=setup.device)) / setup.shares
        self.optimizer.zero_grad(set_to_none=True)
        for slots in setup.slots:
            found = self.objective.backward(self.done, slots, factor)
            for i, name in enumerate(weights):
                if (raw := found[name]) is not None:
                    asked[name] = True
                    means[i] += raw / setup.shares
        setup.ranks.add([means, *(p.grad for p in setup.trained if p.grad is not None)])
        # After the sum: an overflow of one process has to stop the step of all.
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(setup.trained, settings.clip_norm, foreach=True))
        row: LossRow = {"step": self.done, "total": 0.0, **dict.fromkeys(f"{term}_weighted" for term in TERMS)}
        row |= dict.fromkeys(TERMS)
        for (name, weight), value in zip(weights.items(), means.tolist(), strict=True):
            if asked[name]:
                row[name] = value
            if asked[name] and weight > 0:
                row[f"{name}_weighted"] = weight * value
        row["total"] = sum(v for term in TERMS if (v := row[f"{term}_weighted"]) is not None)
        row["learning_rate"] = learning_rate(settings, self.done)
        row["gradient_norm"] = norm if math.isfinite(norm) or not self.scaler.is_enabled() else None
        return {column: row[column] for column in COLUMNS}

    def update(self, row: LossRow) -> None:
        """Step the optimiser on the gradients at hand, then the moving average."""
        for group in self.optimizer.param_groups:
            group["lr"] = row["learning_rate"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        decay = ema_decay(self.setup.settings.ema, self.done)
        now = [parameter.detach() for parameter in self.setup.trained]
        torch._foreach_lerp_(list(self.average.values()), now, 1 - decay)
        self.rows.append(row)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        nan = float("nan")
        latents = self.objective.state()
        if latents is not None:
            latents = self.setup.ranks.gather(latents)
        return {
            "latents": latents,
            "weights": {name: p.detach() for name, p in self.parameters.items()},
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rows": torch.tensor(
                [[nan if row[c] is None else row[c] for c in COLUMNS] for row in self.rows], dtype=torch.float64
            ),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.adopt(state["weights"])
        for name, value in self.average.items():
            value.copy_(state["average"][name])
        if (latents := state["latents"]) is not None:
            latents = latents[self.setup.slots[0].start : self.setup.slots[-1].stop]
        self.objective.restore(latents)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        for values in state["rows"].tolist():
            row: LossRow = {c: None if math.isnan(v) else v for c, v in zip(COLUMNS, values, strict=True)}
            self.rows.append(row | {"step": int(values[0])})

    @torch.no_grad()
    def adopt(self, weights: dict[str, Tensor]) -> None:
        """Put weights into the student."""
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
