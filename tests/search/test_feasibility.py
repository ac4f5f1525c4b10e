from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from hardware_profiles.profile import local
from search.feasibility import unfit
from spaces.plugins import builtin
from spaces.reader import load_space


@pytest.mark.parametrize(
    ("weights", "ffn", "memory", "fits"),
    [
        ("fp16", 0, 1000, True),
        ("fp16", 0, 999, False),
        ("int8", 0, 500, True),
        ("int4", 0, 249, False),
        ("fp16", 0.5, 500, True),
    ],
)
def test_weights_must_fit_into_memory(tmp_path: Path, weights: str, ffn: float, memory: int, fits: bool) -> None:
    (tmp_path / "m").mkdir()
    save_file({"w": np.zeros((10, 50), np.float32)}, tmp_path / "m" / "model.safetensors")
    axes = {"model": {"path": "m"}, "quantization": {"weights": weights}, "pruning": {"ffn": ffn}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
    space = load_space(tmp_path / "space.yaml", builtin())
    reason = unfit(next(space.candidates()), space, local().model_copy(update={"memory_bytes": memory}))
    assert (reason is None) == fits
    assert reason is None or "the weights alone need" in reason
