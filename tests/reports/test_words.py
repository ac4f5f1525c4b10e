from reports.words import describe, duration
from spaces.axes import Value


def test_configuration_in_words() -> None:
    candidate: dict[str, Value] = {
        "model.path": "a/b/inspection-m",
        "pruning.ffn": 0.25,
        "tuning.method": "lora",
        "tuning.steps": 120,
        "tuning.rank": 8,
        "visual_tokens.keep": 0.5,
        "visual_tokens.method": "norm",
        "quantization.weights": "int4",
        "quantization.group_size": 32,
        "quantization.method": "awq",
        "prompt.hint": True,
        "prompt.exemplars": 2,
        "prompt.exemplar_choice": "nearest",
        "prompt.exemplar_order": "reversed",
        "runtime.name": "torch",
        "runtime.threads": 2,
        "runtime.inference_precision": "bf16",
        "extra.knob": 3,
    }
    assert describe(candidate) == (
        "inspection-m",
        "FFN −25 %",
        "LoRA rank 8, 120 steps",
        "50 % visual tokens by norm",
        "int4 by AWQ",
        "groups of 32",
        "answer hint",
        "2 nearest exemplars, reversed",
        "runtime torch",
        "bf16",
        "2 threads",
        "knob=3",
    )
    plain: dict[str, Value] = {
        "model.path": "m",
        "pruning.ffn": 0.0,
        "tuning.method": "none",
        "visual_tokens.keep": 1.0,
        "prompt.hint": False,
        "prompt.exemplars": 0,
        "runtime.name": "openvino",
        "runtime.threads": 1,
        "runtime.inference_precision": "f32",
    }
    assert describe(plain) == ("m",)
    served: dict[str, Value] = {"model.path": "m", "runtime.name": "server", "runtime.server": "llama"}
    assert describe(served) == ("m", "runtime server llama")
    on_gpu: dict[str, Value] = {"model.path": "m", "runtime.name": "torch", "runtime.device": "cuda"}
    assert describe(on_gpu) == ("m", "runtime torch", "on cuda")


def test_what_was_pruned_and_tuned_in_words() -> None:
    candidate: dict[str, Value] = {
        "model.path": "m",
        "pruning.ffn": 0.0,
        "pruning.heads": 0.25,
        "pruning.vision_ffn": 0.5,
        "pruning.importance": "activations",
        "tuning.method": "dora",
        "tuning.steps": 60,
        "tuning.rate": 0.0,
    }
    assert describe(candidate) == ("m", "heads −25 %, vision FFN −50 % by activations", "DoRA, 60 steps")


def test_duration() -> None:
    assert [duration(s) for s in (0.02, 8.24, 59.4, 200, 7500)] == [
        "0.0 s",
        "8.2 s",
        "59 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
