#!/usr/bin/env python3
"""Records the expert routing of a Hugging Face MoE model into moeplan's native format; --help says how."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from moeplan_record.program import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
