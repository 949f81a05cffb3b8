"""The pool, the user ids and the control groups as what they are without processes."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from attrs import define
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.errors import Faulted
from solo_trio.runtimes import cgroups, pool, sandboxes
from solo_trio.runtimes.sandbox import landlock, layers, plan, root


@define(eq=False)
class Waiting:
    """A sandbox as the pool sees it."""

    made_at: float = 0.0
    ended: bool = False
    discarded: bool = False

    def has_ended(self) -> bool:
        return self.ended

    def discard(self) -> None:
        assert not self.discarded
        self.discarded = True


WAITING_MAX = 32


def kind(incarnation: str = "a", **shape: float) -> pool.Kind:
    return pool.Kind(incarnation, "", tuple(sorted(shape.items())))


def put(shelves: pool.Pool, which: pool.Kind, now: float) -> Waiting:
    made = Waiting()
    shelves.put(which, cast(sandboxes.Sandbox, made), now)
    return made


def test_none_is_made_for_those_who_start_nothing() -> None:
    shelves = pool.Pool(WAITING_MAX)
    assert shelves.lacks(0.0) is None
    assert shelves.take(kind(), 0.0) is None
    assert shelves.lacks(0.0) == kind()
    assert shelves.lacks(pool.DEMAND_S + 0.1) is None


def test_one_is_for_its_kind_alone() -> None:
    shelves = pool.Pool(WAITING_MAX)
    made = put(shelves, kind("a", memory_mb=64), 0.0)
    assert shelves.take(kind("b", memory_mb=64), 0.0) is None
    assert shelves.take(kind("a", memory_mb=65), 0.0) is None
    assert shelves.take(kind("a"), 0.0) is None
    assert shelves.take(kind("a", memory_mb=64), 0.0) is made
    assert shelves.take(kind("a", memory_mb=64), 0.0) is None


def test_one_that_died_while_it_waited_is_not_given_out() -> None:
    shelves = pool.Pool(WAITING_MAX)
    lives, dead = put(shelves, kind(), 0.0), put(shelves, kind(), 0.0)
    dead.ended = True
    assert shelves.take(kind(), 1.0) is lives
    assert dead.discarded and not lives.discarded


def test_those_that_nobody_wants_end() -> None:
    shelves = pool.Pool(WAITING_MAX)
    first, second = put(shelves, kind("a"), 0.0), put(shelves, kind("b"), 5.0)
    assert shelves.expire(1.0) == pool.IDLE_S_MAX
    assert shelves.expire(pool.IDLE_S_MAX) == 5.0 + pool.IDLE_S_MAX
    assert first.discarded and not second.discarded
    assert shelves.expire(5.0 + pool.IDLE_S_MAX) is None
    assert second.discarded
    assert shelves._shelves == {}  # nothing is kept of tenants that are gone


def test_clear_ends_all_or_those_of_one_kind() -> None:
    shelves = pool.Pool(WAITING_MAX)
    made = [put(shelves, kind(name), 0.0) for name in "aab"]
    shelves.clear(kind("a"))
    assert [each.discarded for each in made] == [True, True, False]
    shelves.clear(kind("never seen"))
    shelves.clear()
    assert made[2].discarded


steps = st.lists(
    st.tuples(st.sampled_from(["take", "fill", "expire", "die"]), st.sampled_from("abcdefghijkl"), st.floats(0, 20)),
    max_size=60,
)


@given(steps)
def test_the_pool_stays_small_and_gives_each_out_once(done: list[tuple[str, str, float]]) -> None:
    shelves, now = pool.Pool(WAITING_MAX), 0.0
    made: list[Waiting] = []
    given_out: list[Waiting] = []
    for step, name, later in done:
        now += later
        if step == "take":
            found = cast(Waiting | None, shelves.take(kind(name), now))
            if found is not None:
                assert found not in given_out and not found.discarded and not found.ended
                given_out.append(found)
        elif step == "fill":
            for _ in range(WAITING_MAX + 1):
                wanted = shelves.lacks(now)
                if wanted is None:
                    break
                made.append(put(shelves, wanted, now))
            else:
                raise AssertionError("it never has enough")
        elif step == "expire":
            again = shelves.expire(now)
            assert again is None or again > now
        else:
            for each in made[-3:]:
                each.ended = True
        waiting = [each for shelf in shelves._shelves.values() for each in shelf.waiting]
        assert len(waiting) <= WAITING_MAX
        assert all(len(shelf.waiting) <= pool.WAITING_EACH_MAX for shelf in shelves._shelves.values())
        assert {id(each) for each in made} == {
            id(each) for each in [*waiting, *given_out, *(one for one in made if one.discarded)]
        }
    shelves.clear()
    assert all(each.discarded != (each in given_out) for each in made)


# -- user ids


def test_user_ids_are_nobodys_and_given_back_ones_come_last() -> None:
    uids = sandboxes.Uids(7)
    first, second = uids.take(), uids.take()
    assert first != second and first >= sandboxes.UIDS_FIRST
    uids.give_back(first)
    assert uids.take() not in (first, second)
    for _ in range(sandboxes.UIDS_MAX - 3):
        uids.take()
    assert uids.take() == first
    with pytest.raises(Faulted) as caught:
        uids.take()
    assert caught.value.code == "runtime_unavailable"


@given(st.integers(0, 2**32 - 1))
def test_user_ids_of_every_kernel_are_possible(seed: int) -> None:
    uids = sandboxes.Uids(seed)
    assert 65_536 < sandboxes.UIDS_FIRST <= uids.take() < 2**32 - 1 - sandboxes.UIDS_MAX


# -- control groups: where they are, by what /proc says

V1 = """\
25 20 0:22 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
30 25 0:27 / {root}/memory rw,nosuid shared:15 - cgroup cgroup rw,memory
31 25 0:28 / {root}/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
32 25 0:29 /box {root}/pids rw,nosuid shared:17 master:1 - cgroup cgroup rw,pids
33 25 0:30 / {root}/unified rw,nosuid - cgroup2 cgroup2 rw
"""
V1_OWN = "5:pids:/box/inner\n4:cpu,cpuacct:/\n3:memory:/kernel\n0::/\n"
V2 = "30 25 0:27 {inside} {root} rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def proc(directory: Path, mounts: str, own: str) -> Path:
    found = directory / "proc"
    found.mkdir()
    (found / "mountinfo").write_text(mounts)
    (found / "cgroup").write_text(own)
    return found


def test_version_1_is_found_where_each_controller_is(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for place in ("memory/kernel", "cpu,cpuacct", "pids/inner", "unified"):
        (tree / place).mkdir(parents=True)
    found = cgroups.find("x", proc(tmp_path, V1.format(root=tree), V1_OWN))
    assert found.version == 1 and found.missing == {}
    assert found.bases == {
        "memory": tree / "memory/kernel/solo-x",
        "cpu": tree / "cpu,cpuacct/solo-x",
        "pids": tree / "pids/inner/solo-x",  # what is mounted is not the root of the hierarchy
    }
    assert not any(path.exists() for path in found.bases.values())  # looking makes nothing
    groups = cgroups.Cgroups(found)
    assert sorted(groups.tenant("5010")) == sorted(f"{path}/5010" for path in found.bases.values())
    group = groups.service("5010", {})
    assert all(Path(path).is_dir() and Path(path).parent.name == "5010" for path in group.paths.values())


def test_a_controller_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for place in ("cpu,cpuacct", "pids/inner"):
        (tree / place).mkdir(parents=True)
    found = cgroups.find("x", proc(tmp_path, V1.format(root=tree), V1_OWN))
    assert set(found.bases) == {"cpu", "pids"}
    assert str(tree / "memory/kernel") in found.missing["memory"]


@pytest.mark.parametrize(
    ("inside", "own"), [("/", "/user.slice/solo.service"), ("/user.slice", "/user.slice/solo.service")]
)
def test_version_2_is_found_in_the_own_group(tmp_path: Path, inside: str, own: str) -> None:
    tree = tmp_path / "tree"
    group = tree / own.removeprefix(inside).strip("/")
    group.mkdir(parents=True)
    (group / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    found = cgroups.find("x", proc(tmp_path, V2.format(root=tree, inside=inside), f"0::{own}\n"))
    base = group / "solo-x"
    assert found.version == 2 and found.places == [base] and found.missing == {}
    assert (group / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert not base.exists()
    assert cgroups.Cgroups(found).tenant("5010") == [f"{base}/5010"]
    for each in (base, base / "5010"):
        assert (each / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"


def test_controllers_that_were_not_delegated_are_named(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "cgroup.controllers").write_text("pids\n")
    mounts = V2.format(root=tree, inside="/")
    found = cgroups.find("x", proc(tmp_path, mounts, "0::/\n"))
    assert set(found.bases) == {"pids"} and set(found.missing) == {"memory", "cpu"}
    (tree / "cgroup.controllers").write_text("\n")
    found = cgroups.find("y", tmp_path / "proc")
    assert found.bases == {} and set(found.missing) == set(cgroups.CONTROLLERS)
    assert not (tree / "solo-y").exists()


def test_nothing_is_left_behind_where_version_2_cannot_be_used(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "cgroup.subtree_control").mkdir(parents=True)  # it cannot be written, whoever tries
    (tree / "cgroup.controllers").write_text("memory pids cpu\n")
    found = cgroups.find("x", proc(tmp_path, V2.format(root=tree, inside="/"), "0::/\n"))
    assert found.bases == {} and "Delegate=yes" in found.missing["memory"]
    assert not (tree / "solo-x").exists()


@pytest.mark.parametrize(
    ("mounts", "own"),
    [("", ""), ("nonsense", "0::/"), ("1 2 3", "1"), ("30 25 0:27 / /x rw - ext4 /dev/x rw\n", "0::/\n")],
)
def test_a_machine_without_control_groups(tmp_path: Path, mounts: str, own: str) -> None:
    found = cgroups.find("x", proc(tmp_path, mounts, own))
    assert found.bases == {} and set(found.missing) == set(cgroups.CONTROLLERS)
    group = cgroups.Cgroups(found).service("5010", {"memory_mb": 64})
    assert group.open() == [] and not group.ran_out_of_memory() and group.adjust({"memory_mb": 1}) == frozenset()
    group.close()


@pytest.mark.parametrize(
    ("version", "file", "said", "expected"),
    [
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", True),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 0\n", False),
        (2, "memory.events", "low 0\nhigh 3\nmax 9\noom 2\noom_kill 2\noom_group_kill 0\n", True),
        (2, "memory.events", "low 0\nmax 9\noom 2\noom_kill 0\n", False),
        (2, "memory.events", "oom_kill \n", False),
    ],
)
def test_who_was_killed_for_memory(tmp_path: Path, version: int, file: str, said: str, *, expected: bool) -> None:
    (tmp_path / file).write_text(said)
    assert cgroups.Group(version, {"memory": str(tmp_path)}).ran_out_of_memory() is expected


def test_limits_are_written_as_each_version_wants_them(tmp_path: Path) -> None:
    limits = {"memory_mb": 64, "threads": 8, "cpu_percent": 50, "fds": 10}
    for version, files in (
        (1, {"memory.limit_in_bytes": "67108864", "pids.max": "8", "cpu.cfs_quota_us": "50000"}),
        (2, {"memory.max": "67108864", "pids.max": "8", "cpu.max": "50000 100000"}),
    ):
        place = tmp_path / str(version)
        place.mkdir()
        for name in files:
            (place / name).write_text("")
        group = cgroups.Group(version, dict.fromkeys(cgroups.CONTROLLERS, place))
        assert group.adjust(limits) == {"memory_mb", "threads", "cpu_percent"}
        assert {name: (place / name).read_text() for name in files} == files


# -- what is shown


def test_what_is_hidden_in_something_shown_is_not_in_the_rights(tmp_path: Path) -> None:
    for name in ("shown/a/data/deep", "shown/a/code", "shown/b", "data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "shown/a/file").write_text("")
    shown, hidden = str(tmp_path / "shown"), (str(tmp_path / "shown/a/data"), str(tmp_path / "data"))
    prepared = plan.Prepared.of(plan.Plan(layers.Layers(landlock=7), "/m", (shown,), hidden))
    rights = dict(prepared.rights)
    assert rights.pop("/dev/null") == landlock.USE
    assert rights == {f"{shown}/{name}": landlock.READ for name in ("a/code", "a/file", "b")}


def test_what_is_hidden_whole_is_not_shown_at_all(tmp_path: Path) -> None:
    shown = str(tmp_path)
    prepared = plan.Prepared.of(plan.Plan(layers.Layers(landlock=7), "/m", (shown,), (shown,)))
    assert [path for path, _ in prepared.rights] == ["/dev/null"]


def test_a_root_shows_no_place_twice_and_no_data(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    found = root.places(str(package), [str(tmp_path), "relative", str(tmp_path / "not there")])
    assert str(tmp_path) in found and str(package) not in found and "relative" not in found
    assert len(found) == len(set(found))
    assert not {"/", "/etc", "/proc", "/sys", "/dev", "/dev/shm", "/home", "/root", "/tmp", "/var", "/usr"} & set(found)


def test_what_another_user_cannot_get_to_is_named(tmp_path: Path) -> None:
    """Whatever its own mode: a directory above may be closed."""
    inside = tmp_path / "closed/python/lib"
    inside.mkdir(parents=True)
    for path in (inside, inside.parent):
        path.chmod(0o755)
    (tmp_path / "closed").chmod(0o700)
    assert root.unreachable([str(inside), "/usr"]) == [str(inside)]
