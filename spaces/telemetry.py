"""OpenVINO's telemetry, which begins to send when the library is imported: turned off in this process, before that."""

from typing import Any


def stop_telemetry() -> None:
    """Whatever OpenVINO would report is declined, and nothing is sent; without the library there is nothing to do."""
    try:
        from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker
        from openvino_telemetry.utils.sender import TelemetrySender
    except ImportError:
        return

    def declined(*_: Any, **__: Any) -> Any:
        return ConsentCheckResult.DECLINED

    def unsent(*_: Any, **__: Any) -> None:
        return None

    OptInChecker.check = declined
    TelemetrySender.send = unsent
