import json
import os
import platform
import sys
from pathlib import Path

import pytest

from hardware_profiles.agent import facts

# The first processor of a Raspberry Pi 5, as its kernel prints it.
PI_5 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

processor\t: 1
Features\t: none
"""
X86 = "model name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu avx512_bf16 amx_int8\n\nprocessor\t: 1\nflags\t\t: x\n"


def machine(root: Path, cpuinfo: str, files: dict[str, str]) -> Path:
    files = {"proc/cpuinfo": cpuinfo, "proc/meminfo": "MemTotal:        8255488 kB\nMemFree: 1 kB\n"} | files
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_board_is_named_by_its_device_tree(tmp_path: Path) -> None:
    root = machine(tmp_path, PI_5, {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"})
    found = facts.facts(root)
    assert (found.model, found.cpu) == ("Raspberry Pi 5 Model B Rev 1.0", "Cortex-A76")
    assert found.memory_bytes == 8255488 * 1024
    assert found.dtypes == ("f32", "int8")


def test_a_computer_is_named_by_its_firmware(tmp_path: Path) -> None:
    dmi = {"sys/class/dmi/id/sys_vendor": "Maker\n", "sys/class/dmi/id/product_name": "Box 3\n"}
    root = machine(tmp_path, X86, dmi)
    assert (facts.model(root), facts.cpu(root)) == ("Maker Box 3", "Some CPU @ 2.00GHz")
    assert facts.dtypes(root) == ("f32", "bf16", "int8")


def test_what_is_not_said_is_empty_and_an_unknown_core_keeps_its_numbers(tmp_path: Path) -> None:
    root = machine(tmp_path, "CPU implementer\t: 0x61\nCPU part\t: 0x022\n", {})
    assert (facts.model(root), facts.cpu(root), facts.dtypes(root)) == ("", "0x61 0x022", ("f32",))


def test_the_facts_of_this_machine() -> None:
    found = facts.facts()
    assert found.machine == platform.machine()
    assert found.threads == len(os.sched_getaffinity(0))
    assert found.memory_bytes == pytest.approx(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), rel=0.01)
    assert platform.release() in found.platform["system"]
    assert set(found.sensors) == {"temperature", "clock", "throttle", "energy"}
    assert {"user", "network", "memory"} <= set(found.isolation)
    assert "CPU" not in found.accelerators


def test_accelerators_come_from_the_runtimes_own_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"GPU.0": "Some GPU (iGPU)", "NPU": "Some NPU"}
    for name, text in ((sys.executable, json.dumps(asked)), ("nvidia-smi", "0, NVIDIA H200, 143771 MiB")):
        (tmp_path / Path(name).name).write_text(f"#!/bin/sh\necho '{text}'\n")
        (tmp_path / Path(name).name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / Path(sys.executable).name))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    facts.accelerators.cache_clear()
    try:
        assert facts.accelerators() == asked | {"cuda:0": "NVIDIA H200, 143771 MiB"}
    finally:
        facts.accelerators.cache_clear()


def test_settings_that_bear_on_speed_are_the_kernels_own(tmp_path: Path) -> None:
    cpus = "sys/devices/system/cpu"
    files = {f"{cpus}/cpu{number}/cpufreq/scaling_governor": "ondemand\n" for number in (0, 1)}
    files |= {f"{cpus}/cpu2/cpufreq/scaling_governor": "performance\n", f"{cpus}/intel_pstate/no_turbo": "1\n"}
    found = facts.settings(machine(tmp_path, X86, files))
    assert (found["governor"], found["turbo"]) == ("ondemand, performance", "off")
    (tmp_path / cpus / "intel_pstate/no_turbo").unlink()
    (tmp_path / cpus / "cpufreq").mkdir()
    (tmp_path / cpus / "cpufreq/boost").write_text("1\n")
    assert facts.settings(tmp_path)["turbo"] == "on"
    assert "power_mode" not in found
