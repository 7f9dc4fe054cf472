"""Freed memory is kept where glibc is, and the environment does not say otherwise."""

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from pixeltrust.config import Config
from pixeltrust.plumbing.malloc import keep_freed_memory
from pixeltrust.prediction import network as inference
from pixeltrust.training import train
from pixeltrust.training.run_folder import Run
from tiny import draw

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
FAULTS = """
import resource
from pixeltrust.plumbing.malloc import keep_freed_memory
print(keep_freed_memory())
for _ in range(20):
    blocks = [b"x" * (20 << 20) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.fixture(autouse=True)
def an_environment_that_says_nothing(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)


def done_and_faults(**environment):
    """What a process says that takes and frees 80 MiB again and again: whether memory is kept, and how often the kernel gave it a page."""
    answer = subprocess.run([sys.executable, "-c", FAULTS], env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    done, faults = answer.stdout.split()
    return done, int(faults)


@needs_glibc
def test_memory_that_was_freed_is_not_asked_of_the_kernel_again():
    done, faults = done_and_faults()
    left, many = done_and_faults(GLIBC_TUNABLES="")
    assert (done, left) == ("True", "False")
    assert faults < many / 4  # 20 rounds, of which all but one are served by what is there


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stands(name, monkeypatch):
    monkeypatch.setenv(name, "")
    assert not keep_freed_memory()


@pytest.mark.parametrize("platform_name", ["darwin", "win32"])
def test_other_systems_are_left_alone(platform_name, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform_name)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail(f"{name} was loaded"))
    assert not keep_freed_memory()


def test_another_c_library_and_one_that_cannot_be_had_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()

    def fail(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert not keep_freed_memory()


def test_training_and_what_predicts_keep_it(tmp_path, monkeypatch):
    called = []
    for module in (train, inference):
        monkeypatch.setattr(module, "keep_freed_memory", lambda name=module.__name__: called.append(name))
    config = Config(model="tiny:network", image_size=16, epochs=1, device="cpu")
    train.train(draw(tmp_path / "data"), out=tmp_path / "run", config=config, show_progress=False)
    assert called == ["pixeltrust.training.train"]
    inference.read_network(Run(tmp_path / "run"), "last")  # as `predict` and `audit` begin
    assert called == ["pixeltrust.training.train", "pixeltrust.prediction.network"]
