"""Reads the prompts of the program: a line each, or a JSON object a line."""
import json

from .errors import RecordError

KEYS = {"prompt", "messages", "input_ids", "response", "response_ids", "request", "category"}


class Prompt:
    """text, messages or ids; perhaps a known response; the request's number and category."""
    __slots__ = ("text", "messages", "ids", "response", "response_ids", "request", "category")

    def __init__(self, text=None, messages=None, ids=None, response=None, response_ids=None, request=None, category=None):
        self.text, self.messages, self.ids = text, messages, ids
        self.response, self.response_ids, self.request, self.category = response, response_ids, request, category


def is_ids(value):
    return isinstance(value, list) and value and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value)


def parse_line(line, where):
    try:
        o = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{where}: not JSON ({error})") from None
    if not isinstance(o, dict):
        raise RecordError(f"{where}: not an object (write {{\"prompt\": \"...\"}})")
    unknown = sorted(set(o) - KEYS)
    if unknown:
        raise RecordError(f"{where}: key {unknown[0]!r} is not known (known: {', '.join(sorted(KEYS))})")
    given = [k for k in ("prompt", "messages", "input_ids") if k in o]
    if len(given) != 1:
        raise RecordError(f"{where}: needs one of prompt, messages, input_ids")
    for key in ("prompt", "response", "category"):
        if key in o and (not isinstance(o[key], str) or not o[key]):
            raise RecordError(f"{where}: {key} is not a text")
    for key in ("input_ids", "response_ids"):
        if key in o and not is_ids(o[key]):
            raise RecordError(f"{where}: {key} is not a list of token numbers")
    if "messages" in o and not (isinstance(o["messages"], list) and o["messages"] and all(isinstance(m, dict) for m in o["messages"])):
        raise RecordError(f"{where}: messages is not a list of {{\"role\": ..., \"content\": ...}}")
    if "response" in o and "response_ids" in o:
        raise RecordError(f"{where}: response and response_ids")
    request = o.get("request")
    if request is not None and (not isinstance(request, int) or isinstance(request, bool) or not 0 <= request < 1 << 64):
        raise RecordError(f"{where}: request is not a whole number")
    return Prompt(o.get("prompt"), o.get("messages"), o.get("input_ids"), o.get("response"), o.get("response_ids"), request, o.get("category"))


def read_prompts(path, limit=None):
    """All prompts of a file: .jsonl by its ending, otherwise one prompt a line; blank lines are skipped."""
    prompts = []
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            if limit is not None and len(prompts) >= limit:
                break
            line = line.strip("\r\n")
            if not line.strip():
                continue
            prompts.append(parse_line(line, f"{path}:{number}") if str(path).endswith((".jsonl", ".json")) else Prompt(text=line))
    if not prompts:
        raise RecordError(f"{path}: no prompts")
    named = [p.request for p in prompts if p.request is not None]
    if named and len(named) != len(prompts):
        raise RecordError(f"{path}: {len(named)} of {len(prompts)} prompts have a request number (give all or none)")
    if len(set(named)) != len(named):
        raise RecordError(f"{path}: a request number is given twice")
    known = sum(p.response is not None or p.response_ids is not None for p in prompts)
    if known not in (0, len(prompts)):
        raise RecordError(f"{path}: {known} of {len(prompts)} prompts have a response (give all or none: with responses nothing is generated)")
    return prompts
