"""What a person is told when a command fails: one message and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from streams.errors import HeadraceError

_UNREACHABLE = "find what is wrong with: ./headrace doctor"


@dataclass(frozen=True, slots=True)
class Failure:
    """A message, and the remedy."""

    message: str
    remedy: str


def explain(error: BaseException) -> Failure | None:
    """Message and remedy of an error that a person can do something about; None for a bug, whose traceback is worth more.

    Libraries' errors are told by their class's name and module, so that this file imports none of them.
    """
    kind, module = type(error).__name__, type(error).__module__.partition(".")[0]
    failure = None
    if isinstance(error, HeadraceError):
        failure = Failure(str(error), error.remedy)
    elif kind == "ValidationError" and module.startswith("pydantic"):
        failure = Failure(_wrong_settings(error), "correct these HEADRACE_ variables; what each means stands in infra/settings.py")
    elif kind == "UnknownSchema":
        failure = Failure(str(error), "register the schemas with: ./headrace schemas register")
    elif module in ("confluent_kafka", "cimpl", "aiokafka"):
        failure = Failure(f"Kafka: {_kafka_text(error)}", _UNREACHABLE)
    elif module in ("httpx", "redis"):
        failure = Failure(f"{module}: {error}", _UNREACHABLE)
    elif isinstance(error, OSError):
        failure = Failure(str(error), _UNREACHABLE if error.filename is None else "check that the path exists and that you may use it")
    return failure


def _kafka_text(error: BaseException) -> str:
    """librdkafka's errors are objects inside the exception, and their own text is the readable one."""
    inner = error.args[0] if error.args else error
    return str(inner.str()) if hasattr(inner, "str") else str(inner)


def _wrong_settings(error: BaseException) -> str:
    """One line for each wrong setting."""
    details = error.errors() if hasattr(error, "errors") else []
    lines = [f"HEADRACE_{'_'.join(map(str, d['loc'])).upper()}: {d['msg']} (it is {d['input']!r})" for d in details]
    return "\n".join(lines) or str(error)
