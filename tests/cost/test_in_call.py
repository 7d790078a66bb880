"""Time of parts inside whole calls: closed forms on a made-up clock, and calls that stay what they are."""

import time
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from leanmotion.cost.in_call import WATCHED, Watched, in_call_rows
from leanmotion.cost.macs import unet_inputs
from leanmotion.cost.timing import Clock, device_clock, measure_latency, paired_savings, without_variants
from leanmotion.errors import LeanmotionError
from leanmotion.model.units import list_units


class Hand:
    """A clock that moves only when told to; `reading` seconds pass with every mark."""

    def __init__(self, reading=0.0):
        self.now, self.reading, self.waits = 0.0, reading, 0

    def mark(self):
        self.now += self.reading
        return self.now

    def wait(self):
        self.waits += 1

    @property
    def clock(self):
        return Clock("hand", lambda: self.now, self.wait, self.mark)


class Sleeps(nn.Module):
    """Takes its seconds, of which each further call takes `more`."""

    def __init__(self, hand, seconds, more=0.0):
        super().__init__()
        self.hand, self.seconds, self.more = hand, seconds, more

    def forward(self, x):
        self.hand.now += self.seconds
        self.seconds += self.more
        return x + 1


def network(hand, **seconds):
    """Modules one after the other. All times here are sums of powers of two, so that floats add without rounding."""
    return nn.Sequential(*(Sleeps(hand, value) for value in seconds.values())), seconds


def parts_of(net, *names):
    return {name: net[i] for i, name in enumerate(names) if not name.startswith("_")}


def hooks(module):
    return [hook for m in module.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]


def whole(net):
    return lambda: nullcontext(lambda: net(torch.zeros(1)))


def watched_call(watched):
    with watched() as call:
        call()
    return watched.savings[-1]


@pytest.mark.parametrize("reading", [0.0, 0.25])
def test_each_part_saves_its_own_time_whatever_the_clock_takes(reading):
    hand = Hand(reading)
    net, seconds = network(hand, a=0.5, _spatial=4.0, b=1.5)
    watched = Watched(whole(net), parts_of(net, *seconds), hand.clock)
    assert watched_call(watched) == {"a": 0.5, "b": 1.5} == watched_call(watched)
    assert len(watched.savings) == 2 and hand.waits == 2
    # Two marks a part, and two of the module that stands there once a part is gone.
    assert hand.now == 2 * (6 + 6 * reading)


def test_a_part_that_is_called_twice_counts_twice():
    hand = Hand(reading=0.25)
    part = Sleeps(hand, 0.5)
    watched = Watched(whole(nn.Sequential(part, part)), {"a": part}, hand.clock)
    assert watched_call(watched) == {"a": 1.0}


def test_parts_add_up_to_what_whole_calls_lose():
    """Without being scaled to it: on a clock that costs nothing, and where no part changes what its neighbours take."""
    hand = Hand()
    net, seconds = network(hand, a=0.5, _first=4.0, b=1.5, _last=2.0)
    rest = nn.Sequential(net[1], net[3])
    watched = Watched(whole(net), parts_of(net, *seconds), hand.clock)
    variants = {"full": whole(net), "none": whole(rest), WATCHED: watched}
    rows = measure_latency(variants, rounds=5, warmup=2, clock=hand.clock.now, synchronise=hand.wait)
    assert len(watched.savings) == 7
    calls = [row for row in rows if row["variant"] == WATCHED]
    found = {r["variant"]: r for r in paired_savings([*rows, *in_call_rows(calls, watched.savings[2:])])}
    assert found["a"]["saving"] + found["b"]["saving"] == found["none"]["saving"] == 2.0
    assert found[WATCHED]["saving"] == 0.0 and found["full"]["seconds"] == found[WATCHED]["seconds"] == 8.0
    assert (found["b"]["seconds"], found["b"]["saving_fraction"], found["b"]["rounds"]) == (6.5, 1.5 / 8, 5)


def test_the_cost_of_the_clocks_is_what_watched_calls_take_longer():
    hand = Hand(reading=0.125)
    net, seconds = network(hand, a=0.5, b=1.5)
    variants = {"full": whole(net), WATCHED: Watched(whole(net), parts_of(net, *seconds), hand.clock)}
    rows = measure_latency(variants, rounds=3, clock=hand.clock.now)
    found = {row["variant"]: row for row in paired_savings(rows)}
    assert found[WATCHED]["saving"] == -6 * 0.125 and found["full"]["saving"] == 0.0


def test_rows_of_parts_by_hand():
    """Medians and quartiles over calls of 10 s, in which the part takes 1, 2 and 4 s."""
    calls = [{"variant": WATCHED, "round": i, "seconds": 10.0, "reference_seconds": 9.0} for i in range(3)]
    rows = list(in_call_rows(calls, [{"a": 1.0}, {"a": 4.0}, {"a": 2.0}]))
    assert [row["round"] for row in rows] == [0, 1, 2]
    _, row = paired_savings([{**calls[0], "variant": "full"}, *rows])
    assert (row["variant"], row["saving"], row["saving_low"], row["saving_high"]) == ("a", 2.0, 1.5, 3.0)
    assert (row["seconds"], row["saving_fraction"]) == (8.0, pytest.approx(0.2))
    with pytest.raises(ValueError, match="zip"):
        list(in_call_rows(calls, [{"a": 1.0}]))


@pytest.mark.parametrize("seconds", [0.0, float("nan"), float("inf"), -1.0])
def test_a_clock_that_tells_no_time_is_refused(seconds):
    hand = Hand()
    net = nn.Sequential(Sleeps(hand, seconds))
    with pytest.raises(LeanmotionError, match=rf"^mid_0 took {seconds} s of a UNet call: this clock tells no time$"):
        watched_call(Watched(whole(net), {"mid_0": net[0]}, hand.clock))
    assert not hooks(net)


def test_a_part_that_is_never_called_is_named():
    hand = Hand()
    net, beside = nn.Sequential(Sleeps(hand, 1.0)), Sleeps(hand, 1.0)
    watched = Watched(whole(net), {"up_0_0": net[0], "mid_0": beside}, hand.clock)
    with pytest.raises(LeanmotionError, match=r"^a UNet call came .* without mid_0, .*teacher\.adapter") as caught:
        watched_call(watched)
    assert "\n" not in str(caught.value) and not watched.savings and not hooks(net) and not hooks(beside)


def test_hooks_are_gone_after_an_error_inside_a_part():
    class Breaks(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    hand = Hand()
    net = nn.Sequential(Sleeps(hand, 1.0), Breaks(), Sleeps(hand, 1.0))
    watched = Watched(whole(net), dict(zip("abc", net, strict=True)), hand.clock)
    with pytest.raises(RuntimeError, match="broken"):
        watched_call(watched)
    assert not hooks(net) and not watched.savings


@pytest.fixture(scope="module")
def small(make_unet):
    return make_unet(levels=2, layers=1)


def blocks_of(unet):
    return {unit.id: unet.get_submodule(unit.address) for unit in list_units(unet, "temporal_transformer")}


def test_a_watched_call_of_a_unet_computes_the_same_bits(small):
    inputs = unet_inputs(small, frames=2, height=4, width=4)
    outputs = []
    handle = small.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    full = without_variants(small, inputs, {"full": ()})["full"]
    with full() as call:
        call()
    watched = Watched(full, blocks_of(small), device_clock("cpu"))
    saved = watched_call(watched)
    handle.remove()
    assert torch.equal(*outputs) and not hooks(small)
    assert list(saved) == list(blocks_of(small)) and all(seconds > 0 for seconds in saved.values())


def test_a_gpu_is_waited_for_once_a_call(monkeypatch):
    """Events of its stream stand for marks, and are read only after the wait."""
    hand = Hand()
    done = [False]

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            assert stream == "stream of cuda:1" and not done[0]
            self.at = hand.now

        def elapsed_time(self, end):
            assert done[0]
            return (end.at - self.at) * 1e3

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(
        torch.cuda, "synchronize", lambda device: done.__setitem__(0, device == "cuda:1") or hand.wait()
    )
    clock = device_clock("cuda:1")
    net, seconds = network(hand, a=0.5, b=1.5)
    assert clock.name == "cuda"
    assert watched_call(Watched(whole(net), parts_of(net, *seconds), clock)) == {"a": 0.5, "b": 1.5}
    assert hand.waits == 1


@pytest.mark.parametrize(
    ("threads", "step", "name"), [(1, 1e-6, "processor"), (1, 0.016, "wall"), (1, 0.0, "wall"), (2, 1e-6, "wall")]
)
def test_processor_time_where_a_call_keeps_to_one_thread_and_the_clock_is_fine(monkeypatch, threads, step, name):
    """Not in ticks of 16 ms, as on Windows; nor where it stands still."""
    readings = iter(range(10**9))
    monkeypatch.setattr(time, "thread_time", lambda: step * (next(readings) // 100))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert device_clock("cpu").name == name
