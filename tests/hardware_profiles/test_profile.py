import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hardware_profiles.calibration import measured_here
from hardware_profiles.profile import Profile, all_profiles, built_in, load_profile, local, named, profile_of
from hardware_profiles.wire import Facts
from spaces.errors import BadInput

PAGE = Path(__file__).resolve().parents[2] / "docs" / "devices.md"
GIB = 1 << 30


def facts(**known: object) -> Facts:
    base = Facts(machine="aarch64", model="", cpu="", memory_bytes=4 * GIB, threads=4, dtypes=("f32",))
    return replace(base, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "name"),
    [
        ({"model": "Raspberry Pi 5 Model B Rev 1.0", "memory_bytes": 8 * GIB - 200_000_000}, "raspberry-pi-5-8gb"),
        ({"model": "Raspberry Pi 5 Model B Rev 1.1", "memory_bytes": 16 * GIB}, "arm-cpu"),
        ({"model": "Raspberry Pi 4 Model B Rev 1.4", "memory_bytes": int(3.7 * GIB)}, "raspberry-pi-4-4gb"),
        ({"model": "NVIDIA Jetson Orin Nano Developer Kit", "memory_bytes": int(7.4 * GIB)}, "jetson-orin-nano-8gb"),
        ({"model": "NVIDIA Jetson Orin NX Engineering Reference", "memory_bytes": 15 * GIB}, "jetson-orin-nx-16gb"),
        ({"model": "NVIDIA Jetson AGX Orin Developer Kit", "memory_bytes": 61 * GIB}, "jetson-agx-orin-64gb"),
        ({"machine": "x86_64", "cpu": "Intel(R) Core(TM) Ultra 7 258V"}, "intel-core-ultra-200v"),
        ({"machine": "x86_64", "accelerators": {"cuda:0": "NVIDIA L4, 24 GB"}}, "pc-nvidia-l4"),
        ({"machine": "x86_64", "accelerators": {"cuda:0": "NVIDIA L40S"}}, "x86-cpu"),
        ({"machine": "x86_64", "accelerators": {"cuda:0": "NVIDIA H200"}}, "server-nvidia-h200"),
        ({"machine": "riscv64"}, "riscv64-cpu"),
    ],
)
def test_a_device_gets_the_profile_that_its_facts_match(known: dict[str, object], name: str) -> None:
    assert profile_of(facts(**known)).name == name


def test_what_a_device_says_of_itself_is_taken_and_counts_as_verified() -> None:
    said = facts(
        model="Raspberry Pi 5", memory_bytes=8_000_000_000, threads=3, dtypes=("f32", "int8"),
        sensors={"temperature": "/sys/class/thermal", "energy": "none: no PMIC"},
    )  # fmt: skip
    found = profile_of(said)
    assert (found.memory_bytes, found.threads, found.sensors) == (8_000_000_000, 3, ("temperature",))
    assert found.verified("memory_bytes", "threads", "dtypes", "sensors")
    assert not found.verified("cpu.bandwidth")


def test_an_accelerator_with_memory_of_its_own_bounds_what_runs_on_it() -> None:
    found = profile_of(facts(machine="x86_64", memory_bytes=8 * GIB, accelerators={"cuda:0": "NVIDIA L4, 23034 MiB"}))
    assert found.processor("torch")[0] == "gpu"
    assert found.room("torch") == 23034 << 20
    assert found.verified("gpu.memory_bytes")
    assert named("pc-nvidia-l4").room("torch") == 24_000_000_000
    assert found.room("openvino") == 8 * GIB
    assert named("pc-nvidia-l4").room("openvino") is None


def test_every_figure_of_every_profile_says_where_it_comes_from() -> None:
    for profile in all_profiles():
        units = [f"{name}.{what}" for name in profile.processors for what in ("bandwidth", "peak", "operations")]
        units += [f"{name}.memory_bytes" for name, one in profile.processors.items() if one.memory_bytes]
        kind = not profile.match.keys() - {"machine"}
        own = ("power_w", "sensors") if kind else ("memory_bytes", "threads", "dtypes", "power_w", "sensors")
        assert set(profile.sources) == {*own, *units}, profile.name
        for name, unit in profile.processors.items():
            given = {"bandwidth": unit.bandwidth, "peak": any(unit.peak.values()), "memory_bytes": unit.memory_bytes}
            for what, value in given.items():
                source = profile.sources.get(f"{name}.{what}")
                assert not value or (source and source.url.startswith("http")), f"{profile.name}: {name}.{what}"
        assert not any(source.verified for source in profile.sources.values()), "nobody measured on one yet"


def test_the_issue_asks_for_these() -> None:
    assert {profile.name for profile in all_profiles()} == {
        "x86-cpu", "arm-cpu", "intel-core-ultra-200v", "raspberry-pi-4-4gb", "raspberry-pi-5-8gb",
        "jetson-orin-nano-8gb", "jetson-orin-nx-16gb", "jetson-agx-orin-64gb", "pc-nvidia-l4", "server-nvidia-h200",
    }  # fmt: skip
    assert {one.name for one in built_in()} == {one.name for one in all_profiles()} - {
        "x86-cpu", "arm-cpu", "intel-core-ultra-200v",
    }  # fmt: skip


def test_this_machine_can_be_measured() -> None:
    profile = measured_here(local())
    cpu = profile.processors["cpu"]
    assert profile.verified("cpu.bandwidth", "cpu.peak")
    assert cpu.bandwidth is not None
    assert 1e8 < cpu.bandwidth < 1e13
    assert set(cpu.peak) == set(profile.dtypes)
    assert all(rate is not None and rate > 1e9 for rate in cpu.peak.values())


def test_a_name_that_is_none_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="raspberry-pi-5-8gb"):
        named("raspberry-pi-6")
    path = tmp_path / "own.yaml"
    path.write_text("schema: vlmfront.profile/1\nname: own\nmemory_bytes: 5\nthreads: 1\ndtypes: [f32]\nsource: x\n")
    assert named(str(path)).memory_bytes == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"processors": {"gpu": {"bandwidth": -1}}}, r"processors.gpu.bandwidth: Input should be greater"),
        ({"sources": {"threads": {"url": "x"}}}, "sources.threads.says: Field required"),
        ({"match": {"board": "x"}}, "match.board"),
    ],
)
def test_a_wrong_figure_is_named(change: dict[str, object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    base = {"schema": "vlmfront.profile/1", "name": "own", "memory_bytes": 5, "threads": 1, "dtypes": [], "source": "x"}
    path.write_text(yaml.safe_dump(base | change))
    with pytest.raises(BadInput, match=words):
        load_profile(path)


def row(profile: Profile) -> str:
    """The row of docs/devices.md."""
    units = profile.processors.items()
    memory = profile.memory_bytes or next((one.memory_bytes for _, one in units if one.memory_bytes), 0) or 0
    bandwidth = ", ".join(f"{name} {one.bandwidth / 1e9:g} GB/s" for name, one in units if one.bandwidth)
    peak = "; ".join(
        f"{name} " + ", ".join(f"{dtype} {rate / 1e12:.4g}" for dtype, rate in one.peak.items() if rate)
        for name, one in units
        if any(one.peak.values())
    )
    power = ", ".join(f"{mode} {f'{watts:g} W' if watts else '?'}" for mode, watts in profile.power_w.items())
    runtimes = ", ".join(f"{name}: {', '.join(one.runtimes)}" for name, one in units if one.runtimes)
    cells = (
        f"`{profile.name}`", f"{memory / 1e9:.3g} GB" if memory else "asked", bandwidth or "–", peak or "–",
        power or "–", runtimes, ", ".join(profile.sensors),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def test_the_page_has_the_profiles_as_they_are() -> None:
    rows = re.findall(r"^\| `.*\|$", PAGE.read_text(), flags=re.MULTILINE)
    assert rows == [row(profile) for profile in all_profiles()]
