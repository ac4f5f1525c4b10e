"""What of a search works on this machine: each check gives a finding, and where something is wrong the cure."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any, Literal

from search.config import DEFAULT_STORE, home
from spaces.telemetry import stop_telemetry

PYTHON = (3, 11)
_INSTALL = "install the project's lock into an environment of its own: make install"
_DISK_FAIL, _DISK_WARN = 1 << 30, 20 << 30
_MEMORY_WARN = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check's outcome. ``cure``: what to do, empty where all is well."""

    check: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    cure: str = ""


def examine(store: Path | None = None) -> Iterator[Finding]:
    """Every check in turn; the ones that run something come last."""
    root = home(str(store or DEFAULT_STORE), "--store")
    yield _python()
    yield _rooms()
    yield from _distributions()
    yield from _machine()
    yield _disk(root)
    yield _hard_links(root)
    yield _guarded("devices", _devices, "remove the damaged file, then pair the device again")
    yield _energy()
    yield _guarded("torch", _torch, _INSTALL)
    yield _guarded("torchvision", _torchvision, "pip uninstall torchvision: its build is not torch's, nothing needs it")
    yield _guarded("openvino inference", _inference, _INSTALL)
    yield _guarded("openvino-genai", _genai, _INSTALL)


def show(findings: Iterable[Finding]) -> bool:
    """Print the findings as they come; whether a search can work."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    styles = {"ok": "green", "warn": "yellow", "fail": "red"}
    able = True
    for one in findings:
        able = able and one.state != "fail"
        line = Text.assemble((f"{one.state:<5}", styles[one.state]), (f"{one.check:<21}", "bold"), one.detail)
        console.print(line, soft_wrap=True)
        if one.cure:
            console.print(Text(f"{'':<26}{one.cure}", style=styles[one.state]), soft_wrap=True)
    console.print("A search can work here." if able else "A search cannot work here before what failed is mended.")
    return able


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON:
        return Finding(check="Python", state="fail", detail=found, cure="use Python 3.11 or later")
    return Finding(check="Python", state="ok", detail=f"{found}, {sys.platform}")


def _rooms() -> Finding:
    from search.cli import ROOMS, foreign_room

    clash = foreign_room()
    if clash:
        return Finding(check="package names", state="fail", detail="", cure=clash)
    return Finding(check="package names", state="ok", detail=f"{', '.join(ROOMS)} are vlmfront's own")


def _distributions() -> Iterator[Finding]:
    """What vlmfront's own metadata ask for, with the ranges that it is made for."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Finding(check="packaging", state="fail", detail="not installed", cure=_INSTALL)
        return
    wanted = [Requirement(text) for text in metadata.requires("vlmfront") or ()]
    ranges: dict[str, Any] = {}  # of a package that several extras ask for, all at once
    for one in wanted:
        if one.name != "vlmfront" and _for_search(one.marker):
            ranges[one.name] = ranges[one.name] & one.specifier if one.name in ranges else one.specifier
    for name, specifier in sorted(ranges.items()):
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(check=name, state="fail", detail="not installed", cure=_INSTALL)
            continue
        if specifier.contains(found, prereleases=True):
            yield Finding(check=name, state="ok", detail=found)
        else:
            yield Finding(check=name, state="warn", detail=f"{found}, made for {specifier}", cure=_INSTALL)


def _for_search(marker: Any) -> bool:
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("search", "device", "host", "report"))


def _torchvision() -> str:
    """A CUDA build beside a CPU build of torch fails on import, and with it transformers' image processors."""
    if util.find_spec("torchvision") is None:
        return "not installed, not needed"
    import_module("torchvision")
    return f"{metadata.version('torchvision')}, loads beside torch"


def _machine() -> Iterator[Finding]:
    from hardware_profiles.profile import local

    device = local()
    detail = f"{device.threads} threads, computes {', '.join(device.dtypes)} natively"
    yield Finding(check="CPU", state="ok", detail=detail)
    amount = f"{device.memory_bytes / 1e9:.1f} GB"
    if device.memory_bytes < _MEMORY_WARN:
        cure = "search small models, or with workers: 1"
        yield Finding(check="memory", state="warn", detail=amount, cure=cure)
    else:
        yield Finding(check="memory", state="ok", detail=amount)


def _devices() -> str:
    """Which devices a search can name; `vlmfront device check NAME` looks whether one works."""
    from search.fleet import known_names

    return ", ".join(known_names())


def _disk(store: Path) -> Finding:
    free = shutil.disk_usage(_existing(store)).free
    detail = f"{free / 1e9:.1f} GB free at {store}"
    if free >= _DISK_WARN:
        return Finding(check="disk", state="ok", detail=detail)
    cure = "name a folder on a larger disk as store in search.yaml"
    return Finding(check="disk", state="fail" if free < _DISK_FAIL else "warn", detail=detail, cure=cure)


def _hard_links(store: Path) -> Finding:
    try:
        with tempfile.TemporaryDirectory(dir=_existing(store)) as folder:
            first = Path(folder) / "first"
            first.write_text("x")
            try:
                (Path(folder) / "second").hardlink_to(first)
            except OSError:
                cure = "keep the store on a file system with hard links, such as ext4 or xfs"
                detail = "none here: bundles are copies and take their full size"
                return Finding(check="hard links", state="warn", detail=detail, cure=cure)
    except OSError as error:
        cure = "name a folder that you may write to as store in search.yaml"
        return Finding(check="store", state="fail", detail=f"{store}: {error.strerror}", cure=cure)
    return Finding(check="hard links", state="ok", detail="bundles share their bytes with the store")


def _energy() -> Finding:
    from hardware_profiles.agent.sensors import Sensors

    found = Sensors().describe()["energy"]
    if found.startswith("none: "):
        cure = "nothing to do: the search goes without energy"
        return Finding(check="energy counter", state="warn", detail=found.removeprefix("none: "), cure=cure)
    return Finding(check="energy counter", state="ok", detail=found)


def _guarded(check: str, work: Callable[[], str], cure: str) -> Finding:
    """The check's detail, or its failure: a broken installation may raise anything."""
    try:
        return Finding(check=check, state="ok", detail=work())
    except Exception as error:
        from spaces.printable import printable

        return Finding(check=check, state="fail", detail=printable(f"{type(error).__name__}: {error}", 200), cure=cure)


def _torch() -> str:
    import torch

    product = float((torch.ones(2, 2) @ torch.ones(2, 2)).sum())
    if product != 8.0:
        raise ArithmeticError(f"a product of ones came out as {product}")
    return "computes" + (", CUDA is there" if torch.cuda.is_available() else "")


def _inference() -> str:
    """A matrix product compiled and run on the CPU with pinned settings, compared with NumPy's."""
    import numpy as np

    stop_telemetry()
    import openvino
    from openvino import opset13 as ops

    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    given = ops.parameter([2, 3], np.float32)
    graph = openvino.Model([ops.matmul(given, ops.constant(weight), False, False)], [given])
    pinned = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(graph, "CPU", pinned)
    value = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)
    if not np.allclose(compiled(value)[0], value @ weight):
        raise ArithmeticError("a matrix product differs from NumPy's")
    return f"a product on the CPU is NumPy's, {openvino.get_version().split('-')[0]}"


def _genai() -> str:
    stop_telemetry()
    import openvino_genai

    if not hasattr(openvino_genai, "VLMPipeline"):
        raise ImportError("there is no VLMPipeline")
    return "has its pipeline for images"


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
