"""What the recorder refuses, always with a sentence that says what to do."""


class RecordError(Exception):
    """Nothing wrong is written: a recording that would not be true is refused instead."""
