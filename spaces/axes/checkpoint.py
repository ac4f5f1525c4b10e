"""Loading and saving of LLaVA-layout checkpoints: strictly, offline, safetensors only."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaces.axes.files import SIDE_FILES, link_all
from spaces.axes.quiet import quiet
from spaces.errors import StageFailed

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

_NAMES_SHOWN = 3


def load_strict(folder: Path, dtype: str = "float32") -> "LlavaForConditionalGeneration":
    """The checkpoint in evaluation mode, every parameter read from the file and every tensor of the file used.

    ``dtype`` names the torch type that the weights are cast to.

    Raises:
        StageFailed: keys are missing, unexpected or of another shape; the first of them are named.
    """
    with quiet("transformers"):
        import torch
        from transformers import LlavaForConditionalGeneration

        model, info = LlavaForConditionalGeneration.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    problems = [
        f"{what} {_listed(keys)}"
        for what, keys in (
            ("missing", info["missing_keys"]),
            ("unexpected", info["unexpected_keys"]),
            ("of another shape", [key[0] for key in info["mismatched_keys"]]),
            ("unreadable", info["error_msgs"]),
        )
        if keys
    ]
    if problems:
        raise StageFailed(f"the checkpoint does not fit its config.json: {'; '.join(problems)}.")
    return model.eval()


def save(model: "LlavaForConditionalGeneration", source: Path, target: Path) -> None:
    """Writes the model, turned into half precision, with the tokenizer and processor files of ``source``.

    Raises:
        StageFailed: a weight is not finite in half precision.
    """
    with quiet("transformers"):
        import torch

        model.half()
        for name, weight in model.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                raise StageFailed(f"{name} holds values that are not finite in half precision.")
        model.save_pretrained(target, safe_serialization=True)
    written = {path.name for path in target.iterdir()}
    link_all(source, target, (name for name in SIDE_FILES if name not in written))


def _listed(keys: Any) -> str:
    names = sorted(str(key) for key in keys)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
