"""What must fail inside of a sandbox: each probe at each level, and that each layer is needed.

Each configuration is run once, in a process of its own (`sandbox_run.py`), whatever the number of its probes.
"""

from __future__ import annotations

import os
import platform
import re
from typing import Any

import pytest
from sandbox_configurations import run
from sandbox_probes import PROBES

LAYERS = ("namespaces", "landlock", "seccomp", "own_uid")
KNOWLEDGE = frozenset(name for name in PROBES if name.startswith("know_"))
"""That something exists. Landlock does not hide that: what does are namespaces."""
REFUSALS = ("EPERM", "ENOSYS", "EACCES", "ENOENT", "EROFS")
"""Anything else (EFAULT, EBADF, EINVAL) would mean that Linux looked at the arguments of a call that no filter stopped."""
_UNSURE = """
pidfd_of_the_kernel
clone_that_shares_memory clone_of_a_thread_in_a_namespace enter_a_namespace_of_another key_requested socket_inet_raw
socket_alg socket_vsock pair_of_netlink_sockets connection_by_what_python_has own_socket_disconnected
own_socket_listening other_options_of_a_socket read_environment_of_pid_1 read_root_of_a_sibling read_root_of_the_machine
read_scratch_of_a_sibling read_from_a_terminal read_memory_of_the_machine read_kernel_messages set_user_id
messages_of_posix limit_raised typing_into_a_terminal typing_into_a_terminal_with_high_bits typing_into_a_console
controlling_terminal inherited_descriptors environment secret_of_the_kernel_in_memory any_other_system_call root_pivoted
watching_the_whole_file_system performance_counter bpf secret_memory user_fault io_ring keyring key_added
comparing_processes extended_attribute trace_of_a_sibling write_a_new_module write_the_standard_library file_handle
read_file_of_root_in_what_is_shown fork_pty unshare_user clone_with_a_user_namespace personality
"""
UNSURE = frozenset(_UNSURE.split())
"""Those that need not get through where there is no sandbox: this machine, or its container, may be without it or forbid it."""
CONFINED: dict[str, dict[str, Any]] = {
    "root": {"user": "root", "level": 3, "without": []},
    "plain": {"user": "plain", "level": 3, "without": []},
    "root_without_namespaces": {"user": "root", "level": 2, "without": ["namespaces"]},
    "plain_without_namespaces": {"user": "plain", "level": 2, "without": ["namespaces"]},
}
WHO = "root" if os.geteuid() == 0 else "plain"


def confined(name: str) -> dict[str, Any]:
    """What came of all probes."""
    found = run(CONFINED[name], tuple(PROBES), ("foreign_number", "foreign_architecture"))
    assert "refused" not in found, found
    return found


@pytest.mark.parametrize("name", CONFINED)
def test_the_level(name: str) -> None:
    layers = confined(name)["layers"]
    assert layers["level"] == CONFINED[name]["level"]
    assert layers["own_uid"] is (CONFINED[name]["user"] == "root")
    assert layers["user_namespace"] is (name == "plain")


@pytest.mark.parametrize("name", CONFINED)
def test_it_has_no_rights_and_gets_none(name: str) -> None:
    """As Linux says, whatever the filter would refuse anyway."""
    status = confined(name)["status"]
    assert {int(status[each], 16) for each in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    if CONFINED[name]["user"] == "root":
        assert len(set(status["Uid"].split())) == 1 and status["Uid"].split()[0] not in ("0", "65534")
        assert status["Groups"] == ""


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("name", CONFINED)
def test_fails_inside(probe: str, name: str) -> None:
    outcome = confined(name)["outcomes"][probe]
    if probe in KNOWLEDGE and CONFINED[name]["level"] == 2:
        assert outcome.startswith("through"), "this level hides more than it says: take it out of what it does not hide"
        return
    assert outcome.startswith("denied: "), outcome
    code = re.fullmatch(r"denied: (E[A-Z]+)", outcome)
    assert code is None or code[1] in REFUSALS, outcome


@pytest.mark.skipif(platform.machine() != "x86_64", reason="there are other ABIs on x86_64 only")
@pytest.mark.parametrize("name", CONFINED)
@pytest.mark.parametrize("call", ["foreign_number", "foreign_architecture"])
def test_a_call_of_another_abi_kills_its_caller_alone(call: str, name: str) -> None:
    """Also that the sibling answered afterwards is seen to by the run."""
    signal = confined(name)["killed"][call]
    if call == "foreign_number":
        assert signal == "SIGSYS"
    else:  # none may be there by chance in this Python; SIGSEGV: this Linux knows no i386
        assert signal in ("SIGSYS", "SIGSEGV", "through: not found")


@pytest.mark.parametrize("user", ["root", "plain"])
@pytest.mark.parametrize(
    ("layer", "level", "remedy"),
    [("landlock", 2, "lsm="), ("seccomp", 2, "CONFIG_SECCOMP_FILTER"), ("namespaces", 3, "unshare")],
)
def test_code_is_refused_where_a_layer_is_missing(layer: str, level: int, remedy: str, user: str) -> None:
    found = run({"user": user, "level": level, "without": [layer]})
    assert found["refused"] == "sandbox_unavailable"
    assert f"level {level}" in found["detail"] and layer in found["detail"] and remedy in found["detail"]
    assert layer in found["layers"]["missing"] and found["layers"]["level"] == level - 1


TEETH: dict[tuple[str, ...], tuple[str, ...]] = {
    ("seccomp",): (
        "fork",
        "socket_inet",
        "memory_to_write_and_run",
        "hard_link",
        "signal_to_its_group",
        "limit_changed",
    ),
    ("landlock",): ("write_a_device",),
    ("own_uid",): ("read_file_of_root_in_what_is_shown", "being_root"),
    ("namespaces",): ("know_of_passwd", "know_of_processes"),
    ("namespaces", "landlock"): ("read_passwd", "read_processes", "read_up_and_out", "write_tmp", "own_library"),
}


@pytest.mark.parametrize("layers", TEETH, ids=lambda layers: "+".join(layers))
def test_each_layer_keeps_something_out(layers: tuple[str, ...]) -> None:
    if layers == ("own_uid",) and WHO != "root":
        pytest.skip("missing: root")
    outcomes = run({"user": WHO, "level": 1, "without": layers}, TEETH[layers])["outcomes"]
    assert {probe for probe, outcome in outcomes.items() if not outcome.startswith("through")} == set()


def test_without_the_sandbox_the_probes_get_through() -> None:
    """So that those that fail inside do not fail by themselves."""
    outcomes = run({"user": "root", "level": 1, "without": LAYERS}, tuple(PROBES))["outcomes"]
    assert {probe for probe, outcome in outcomes.items() if not outcome.startswith("through")} <= UNSURE
