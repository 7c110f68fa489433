"""Records expert routing of Hugging Face MoE models into moeplan's native format. docs/RECORDING.md says how."""
from .errors import RecordError
from .native import TraceWriter

__all__ = ["RecordError", "Recorder", "TraceWriter"]


def __getattr__(name):
    # Needs torch; the writer does not.
    if name == "Recorder":
        from .recorder import Recorder
        return Recorder
    raise AttributeError(name)
