"""Which rows of a batch are tokens, whose, and of which phase: padding, prompts, the ends of sequences. Plain lists, no torch.

A batch is fed column by column: first the prompts (columns may be padding, left or right), then one column per generated token. A
sequence that has ended goes on being fed while others of its batch have not; those columns are nobody's tokens.
"""
from .errors import RecordError

PREFILL, DECODE = "prefill", "decode"


class Sequence:
    """One request of a batch."""
    __slots__ = ("id", "category", "first_position", "n_real", "is_finished", "n_prompt", "handles")

    def __init__(self, id_, category=None, first_position=0, n_prompt=None):
        self.id, self.category, self.first_position = id_, category, first_position
        self.n_real = 0         # tokens recorded so far
        self.n_prompt = n_prompt    # tokens that are the prompt's, when somebody said so
        self.is_finished = False
        self.handles = {}       # phase -> request of that phase's writer

    def take(self, n_columns, is_prompt, mask=None, tokens=None, ends=frozenset()):
        """The next n_columns columns: -> {phase: (position of the first, offsets of the columns)}.

        is_prompt   how many of them, from the first, belong to the prompt (unless n_prompt is known)
        mask        1 for tokens and 0 for padding, or None: all are tokens
        tokens      their ids, or None
        ends        ids that end a generated sequence: that column and what follows are not recorded, since no server computes them
        """
        taken = {}
        if self.is_finished:
            return taken
        if mask is None and is_prompt == n_columns and self.n_prompt is None:
            taken[PREFILL] = (self.first_position + self.n_real, range(n_columns))
            self.n_real += n_columns
            return taken
        for column in range(n_columns):
            if mask is not None and not mask[column]:
                continue
            is_prefill = column < is_prompt if self.n_prompt is None else self.n_real < self.n_prompt
            if not is_prefill and tokens is not None and tokens[column] in ends:
                self.is_finished = True
                break
            _, columns = taken.setdefault(PREFILL if is_prefill else DECODE, (self.first_position + self.n_real, []))
            columns.append(column)
            self.n_real += 1
        return taken


class Batch:
    """Sequences that are fed together, and how far."""

    def __init__(self, sequences, past_columns=0, n_prompt_columns=None, ends=frozenset()):
        self.sequences = sequences
        self.columns = past_columns             # columns in the cache
        self.n_prompt_columns = n_prompt_columns    # of a generate() call; None: a pass of several columns is prompt, one of one is not
        self.has_decoded = False
        self.ends = ends

    def prompt_columns_of(self, n_columns):
        """How many of the next n_columns belong to the prompt."""
        if self.n_prompt_columns is not None:
            return max(0, min(n_columns, self.n_prompt_columns - self.columns))
        return n_columns if n_columns > 1 or self.columns == 0 else 0

    def advance(self, n_columns, is_prompt):
        self.columns += n_columns
        self.has_decoded = self.has_decoded or is_prompt < n_columns


def check_positions(positions, mask, what):
    """Refuses rows that hold several packed sequences: positions of the tokens of a row must follow each other."""
    for row, line in enumerate(positions):
        kept = [p for i, p in enumerate(line) if mask is None or mask[row][i]]
        for before, after in zip(kept, kept[1:]):
            if after != before + 1:
                raise RecordError(f"{what}: position {after} follows {before} in row {row}: several sequences packed into one row cannot be "
                                  "told apart (record one sequence per row, padded)")


def check_mask(mask, what):
    """The mask of the prompt: rows of 0 and 1, at least one 1 each."""
    for row, line in enumerate(mask):
        if not any(line):
            raise RecordError(f"{what}: row {row} is all padding (leave it out of the batch)")
