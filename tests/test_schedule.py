"""The queue of a driver: gangs that fit nodes, no deadlock, no starvation, packed GPUs, caps and budgets."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.placement import Ledger, Node, describe_need, describe_nodes, fits_empty, unplaceable
from harness.records import Limits, Resources, Trial
from harness.schedule import MAX_OVERTAKEN, FixedSource, Schedule

TWO_BY_FOUR = (Node("a", 16, 4), Node("b", 16, 4))


def trial(name: str, **resources: object) -> Trial:
    return Trial(
        task="referring",
        data={"name": "rrsis_d"},
        data_fingerprint="f",
        model={"name": name.partition("#")[0]},
        train={},
        evaluate={},
        replicate=int(name.partition("#")[2] or 0),
        variant=name.partition("#")[0],
        resources=Resources(**resources),  # type: ignore[arg-type]
    )


def gpus(name: str, share: float, workers: int = 1) -> Trial:
    return trial(name, gpus_per_worker=share, workers=workers)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def simulate(trials: Sequence[Trial], seconds: dict[str, float], nodes: Sequence[Node], **limits: object) -> list[str]:
    """Run a schedule on simulated time; names of the trials in the order in which they start."""
    clock = Clock()
    schedule = Schedule(Limits(**limits), clock)  # type: ignore[arg-type]
    for each in trials:
        schedule.add(each)
    ends: list[tuple[float, int, Trial]] = []
    order = []
    while schedule.waiting or ends:
        while (start := schedule.start_next(nodes)) is not None:
            order.append(f"{start.trial.variant}")
            heapq.heappush(ends, (clock.now + seconds[start.trial.variant], len(order), start.trial))
        if not ends:
            break
        clock.now, _, done = heapq.heappop(ends)
        schedule.ended(done)
    return order


def test_a_gang_is_placed_on_as_few_nodes_as_possible() -> None:
    slots = Ledger(TWO_BY_FOUR).place(Resources(workers=4, gpus_per_worker=1))
    assert slots is not None
    assert len({slot.node for slot in slots}) == 1
    slots = Ledger(TWO_BY_FOUR).place(Resources(workers=6, gpus_per_worker=1))
    assert slots is not None
    assert sorted(slot.node for slot in slots) == ["a"] * 4 + ["b"] * 2
    assert Ledger(TWO_BY_FOUR).place(Resources(workers=9, gpus_per_worker=1)) is None


def test_a_worker_needs_its_gpus_on_one_node() -> None:
    assert not fits_empty(Resources(gpus_per_worker=8), TWO_BY_FOUR)
    assert fits_empty(Resources(gpus_per_worker=4), TWO_BY_FOUR)
    assert not fits_empty(Resources(cpus_per_worker=17), TWO_BY_FOUR)


def test_shares_of_a_gpu_are_packed_and_never_split_over_two() -> None:
    ledger = Ledger([Node("a", 16, 2)])
    placed = [ledger.place(Resources(gpus_per_worker=0.4)) for _ in range(5)]
    assert [slots and slots[0].gpus[0][0] for slots in placed] == [0, 0, 1, 1, None]
    assert ledger.place(Resources(gpus_per_worker=0.2)) is not None
    assert ledger.place(Resources(gpus_per_worker=0.3)) is None


def test_a_type_of_gpu_is_found() -> None:
    nodes = (Node("a", 8, 1, "T4"), Node("b", 8, 1, "A100"))
    slots = Ledger(nodes).place(Resources(gpus_per_worker=1, accelerator="A100"))
    assert slots is not None
    assert slots[0].node == "b"
    assert list(unplaceable([gpus("x", 1), trial("y", gpus_per_worker=1, accelerator="H100")], nodes).values()) == [
        trial("y", gpus_per_worker=1, accelerator="H100")
    ]


def test_trials_start_in_order_as_many_as_fit() -> None:
    trials = [gpus(f"t{i}", 2) for i in range(6)]
    assert simulate(trials, dict.fromkeys((t.variant for t in trials), 1.0), TWO_BY_FOUR) == [
        *("t0", "t1", "t2", "t3", "t4", "t5")
    ]


def test_a_gang_does_not_starve_behind_small_trials() -> None:
    big = gpus("big", 4, workers=2)
    small = [gpus(f"s{i}", 1) for i in range(200)]
    seconds = {"big": 1.0, **{t.variant: 1.0 + 0.01 * i for i, t in enumerate(small)}}
    order = simulate([*small[:3], big, *small[3:]], seconds, TWO_BY_FOUR)
    assert 3 < order.index("big") <= 3 + MAX_OVERTAKEN
    assert len(order) == 201


def test_an_unplaceable_trial_holds_nobody_up() -> None:
    order = simulate([gpus("huge", 9), gpus("a", 1), gpus("b", 1)], {"a": 1, "b": 1}, TWO_BY_FOUR)
    assert order == ["a", "b"]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.25, 0.5, 1, 2, 4])), min_size=1, max_size=60),
    st.randoms(use_true_random=False),
)
def test_every_trial_that_fits_an_empty_cluster_runs_whatever_the_mixture(shapes: list, random: object) -> None:
    trials = [gpus(f"t{i}", share, workers) for i, (workers, share) in enumerate(shapes)]
    possible = [t for t in trials if fits_empty(t.resources, TWO_BY_FOUR)]
    seconds = {t.variant: random.uniform(0.1, 9) for t in trials}  # type: ignore[attr-defined]
    assert sorted(simulate(trials, seconds, TWO_BY_FOUR)) == sorted(t.variant for t in possible)


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.3, 0.5, 1, 2])), max_size=40))
def test_no_gpu_is_given_out_twice(shapes: list[tuple[int, float]]) -> None:
    schedule = Schedule()
    for i, (workers, share) in enumerate(shapes):
        schedule.add(gpus(f"t{i}", share, workers))
    while schedule.start_next(TWO_BY_FOUR) is not None:
        taken: dict[tuple[str, int], float] = {}
        for slot in schedule.slots():
            for index, share in slot.gpus:
                taken[slot.node, index] = taken.get((slot.node, index), 0.0) + share
        assert all(share <= 1 + 1e-9 for share in taken.values())


def test_a_cap_is_kept() -> None:
    schedule = Schedule(Limits(max_running=2))
    for i in range(3):
        schedule.add(trial(f"t{i}"))
    started = [schedule.start_next(TWO_BY_FOUR) for _ in range(3)]
    assert [s is not None for s in started] == [True, True, False]
    assert started[0] is not None
    schedule.ended(started[0].trial)
    assert schedule.start_next(TWO_BY_FOUR) is not None


def test_a_budget_of_time_starts_no_more_and_ends_none() -> None:
    clock = Clock()
    schedule = Schedule(Limits(hours=1), clock)
    schedule.add(trial("a"))
    schedule.add(trial("b", cpus_per_worker=30))
    assert schedule.start_next(TWO_BY_FOUR) is not None
    clock.now = 3600
    assert schedule.start_next([Node("c", 64, 0)]) is None
    assert schedule.exhausted() == "schedule.hours = 1"
    assert [t.variant for t in schedule.running] == ["a"]
    assert [t.variant for t in schedule.waiting] == ["b"]


def test_gpu_hours_count_what_is_held() -> None:
    clock = Clock()
    schedule = Schedule(Limits(gpu_hours=3), clock)
    for i in range(3):
        schedule.add(gpus(f"t{i}", 4))
    first = schedule.start_next(TWO_BY_FOUR)
    assert first is not None
    clock.now = 1800
    schedule.ended(first.trial)
    assert schedule.gpu_hours() == pytest.approx(2)
    assert schedule.start_next(TWO_BY_FOUR) is not None
    clock.now = 2700
    assert schedule.gpu_hours() == pytest.approx(3)
    assert schedule.start_next(TWO_BY_FOUR) is None
    assert schedule.exhausted() == "schedule.gpu_hours = 3"


def test_a_share_of_a_gpu_is_given_after_a_pilot_on_a_whole_one() -> None:
    schedule = Schedule()
    for name in ("m#0", "m#1", "m#2", "n#0"):
        schedule.add(gpus(name, 0.25))
    nodes = [Node("a", 16, 2)]
    pilots = [schedule.start_next(nodes), schedule.start_next(nodes)]
    assert [p and (p.trial.variant, p.trial.resources.gpus_per_worker) for p in pilots] == [("m", 1.0), ("n", 1.0)]
    assert schedule.start_next([*nodes, Node("b", 16, 1)]) is None, "the others of m wait for what its pilot measures"
    assert pilots[0] is not None
    assert schedule.needs_pilot(pilots[0].trial)
    schedule.learn_memory(pilots[0].trial, 0.4)
    assert not schedule.needs_pilot(pilots[0].trial)
    both = [schedule.start_next([*nodes, Node("b", 16, 1)]) for _ in range(2)]
    assert [s and (s.slots[0].node, s.trial.resources.gpus_per_worker) for s in both] == [("b", 0.44), ("b", 0.44)]


def test_a_pilot_that_measured_nothing_leaves_the_share_as_asked() -> None:
    schedule = Schedule()
    for name in ("m#0", "m#1"):
        schedule.add(gpus(name, 0.25))
    pilot = schedule.start_next([Node("a", 4, 1)])
    assert pilot is not None
    schedule.ended(pilot.trial)
    second = schedule.start_next([Node("a", 4, 1)])
    assert second is not None
    assert second.trial.resources.gpus_per_worker == 0.25


def test_a_trial_that_is_tried_again_goes_first() -> None:
    schedule = Schedule()
    schedule.add(trial("a"))
    schedule.add(trial("b"), first=True)
    assert [t.variant for t in schedule.waiting] == ["b", "a"]
    schedule.remove(trial("b"))
    assert [t.variant for t in schedule.waiting] == ["a"]


def test_what_is_needed_and_there_is_said_in_words() -> None:
    assert describe_need(Resources(workers=2, cpus_per_worker=8, gpus_per_worker=1, accelerator="A100")) == (
        "2 workers of 8 CPUs and 1 GPU (A100)"
    )
    assert describe_need(Resources()) == "1 worker of 1 CPU"
    assert describe_nodes([*TWO_BY_FOUR, Node("c", 1, 0)]) == "2 nodes of 16 CPUs and 4 GPUs, 1 node of 1 CPU"
    assert describe_nodes([]) == "no nodes"


def test_a_fixed_source_is_used_up_in_order() -> None:
    source = FixedSource([trial("a"), trial("b")])
    assert [source.next(0), source.next(1), source.next(2)] == [trial("a"), trial("b"), None]
    assert source.is_done()


def test_slots_on_a_node_that_is_gone_are_forgotten() -> None:
    ledger = Ledger([Node("a", 4, 1)])
    slots = ledger.place(Resources(gpus_per_worker=1))
    assert slots is not None
    assert Ledger([Node("b", 4, 1)], slots).place(Resources(gpus_per_worker=1)) is not None
    assert Ledger([Node("a", 4, 1)], slots).place(Resources(gpus_per_worker=1)) is None
