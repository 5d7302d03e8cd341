"""tools/gpu_check.py, with commands of the shell in place of kernels: what it says of steps that fail, hang or are not
there, and its exit status."""
import importlib.util
import pathlib
import subprocess
import types

import pytest

from harness import eventually

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "tools/gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def check(gpu_check):
    return gpu_check.Check(types.SimpleNamespace(device="cuda:0", emulated=False, build="build"))


def words(check):
    return [result[1] for result in check.results]


def test_a_failing_step_does_not_hide_the_others(check, capfd):
    check.step("one", ["true"])
    check.step("two", ["sh", "-c", "echo said; exit 3"])
    check.step("three", ["/there/is/no/such/program"])
    check.skip("four", "it is not there")
    check.step("five", ["true"])
    assert words(check) == ["PASS", "FAIL", "FAIL", "SKIP", "PASS"]
    assert check.summary() == 1
    out = capfd.readouterr().out
    assert "said" in out and "two: exit code 3" in out
    assert "2 passed, 2 failed, 1 skipped" in out.splitlines()[-1]


def test_steps_that_pass_are_success(check):
    check.step("one", ["true"])
    check.skip("two", "it is not there")
    assert check.summary() == 0


def test_nothing_that_ran_is_no_success(check):
    check.skip("all", "it is not there")
    assert check.summary() == 1


def test_a_program_that_ran_no_test_fails(check):
    check.step("none", ["echo", "0 passed, 0 failed"], wanted=r"[1-9]\d* passed")
    check.step("some", ["echo", "10 passed, 0 failed"], wanted=r"[1-9]\d* passed")
    assert words(check) == ["FAIL", "PASS"]


def test_a_step_that_hangs_is_ended_with_all_that_it_started(gpu_check, check, tmp_path):
    pid = tmp_path / "pid"
    gpu_check.STEP_TIMEOUT_S = 0.25
    while not pid.exists():  # on a busy machine the time may be over before it began
        gpu_check.STEP_TIMEOUT_S *= 2
        check.step("hangs", ["sh", "-c", f"sleep 100000 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"])
    assert {result[1:3] for result in check.results} == {("FAIL", "too long")}

    def has_ended():
        state = subprocess.run(["ps", "-o", "stat=", "-p", pid.read_text().strip()], capture_output=True,
                               text=True, check=False).stdout
        return state.strip() in ("", "Z")  # gone, or nobody has asked for its exit code yet
    eventually(has_ended)


def test_what_comes_after_the_time_is_not_begun(gpu_check, check):
    gpu_check.ALL_S = 0
    check.step("late", ["true"])
    assert words(check) == ["FAIL"] and check.summary() == 1


def test_a_venv_that_may_not_be_read_is_skipped(gpu_check, monkeypatch):
    """Path.exists() raises there; a name that is too long is an error for root as well."""
    monkeypatch.setattr(gpu_check, "ROOT", pathlib.Path("/" + "x" * 300))
    check = gpu_check.Check(types.SimpleNamespace(device="cuda:0", emulated=False, build="build"))
    check.server()
    check.timings()
    assert set(words(check)) == {"SKIP"}
