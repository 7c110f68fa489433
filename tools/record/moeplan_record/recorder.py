"""Records the routing of a Hugging Face model while it runs: hooks on its routers and on its own forward().

    with Recorder(model, "out.mpt") as r:
        model.generate(**tokenizer(prompts, return_tensors="pt", padding=True))

writes out.prefill.mpt and out.decode.mpt (a recording has one phase), or out.mpt alone with phase="prefill" or "decode".
"""
import functools
import inspect
import os
import weakref

import torch

from .batches import Batch, Sequence, check_mask, check_positions
from .errors import RecordError
from .native import TraceWriter
from .progress import Progress
from .routers import chosen_in, find_routers, places_of

PHASES = ("prefill", "decode")
# Passes wait on their device until they hold this many bytes of ids and weights or this many passes; then they come over together.
PENDING_BYTES, PENDING_PASSES = 8 << 20, 64
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "block_table", "block_tables", "seq_idx")


class Pass:
    """One call of the model's forward()."""

    def __init__(self, batch, n_columns, is_prompt, mask, tokens):
        self.batch, self.n_columns, self.is_prompt, self.mask, self.tokens = batch, n_columns, is_prompt, mask, tokens
        self.n_rows = len(batch.sequences) * n_columns
        self.chosen = {}    # layer -> (ids, weights)
        self.seen = {}      # first pass only: layer -> {"gate": .., "experts": .., "rule": ..}
        self.ids = self.weights = None


class Summary:
    """What a recording holds; returned by close()."""

    def __init__(self):
        self.files = []     # (path, phase, tokens, requests, sha256)
        self.notes = []

    def __str__(self):
        lines = [f"{path}: {n_rows:,} {phase} tokens of {n:,} requests, sha256 {sha}" for path, phase, n_rows, n, sha in self.files]
        return "\n".join(lines + self.notes)


def unwrapped(model):
    """The module whose forward() generate() calls: without DataParallel, torch.compile and PEFT around it."""
    for _ in range(8):
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            model = model.module
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            break
    return model


class Recorder:
    """model         a transformers model with routers, on any device or several
    path          the recording; with phase "both" its ending .mpt becomes .prefill.mpt and .decode.mpt
    phase         "both", "prefill" or "decode": which tokens are kept; "train": passes of training, all tokens
    weights       keep the gate weights too (2 bytes per id more)
    model_name    default: the model's config says it
    source        the data-parallel rank of this process, when several record (one file each)
    first_id      number of the first request; later ones count up
    keep_partial  when the block ends by an exception, write what was recorded so far; otherwise nothing is left
    only          take routers of modules whose name starts with this
    rule          (block, logits) -> ids, for blocks that choose by a rule unknown to this module
    ids_from      "gate" or "experts" where both know ids and disagree
    progress      a Progress, or True for one of its own, or False
    """

    def __init__(self, model, path, phase="both", weights=False, model_name=None, source=None, first_id=0, keep_partial=False, only="", rule=None,
                 ids_from=None, eos_token_id=None, progress=True):
        self.model, self.path = unwrapped(model), os.fspath(path)
        if phase not in ("both", "train") + PHASES:
            raise RecordError(f"phase {phase!r} is not both, prefill, decode or train")
        if ids_from not in (None, "gate", "experts"):
            raise RecordError(f"ids_from {ids_from!r} is not gate or experts")
        config = getattr(self.model, "config", None)
        if getattr(config, "is_encoder_decoder", False):
            raise RecordError("encoder-decoder models are not recorded (their two token streams are not one request's)")
        self.phase, self.weights, self.source, self.keep_partial, self.ids_from = phase, bool(weights), source, keep_partial, ids_from
        name = model_name if model_name is not None else getattr(config, "_name_or_path", "") or getattr(config, "model_type", "") or ""
        self.model_name = os.path.basename(name.rstrip("/")) if os.path.isdir(name) else name
        self.routers = find_routers(self.model, only, rule)
        self.layers = [r.layer for r in self.routers]
        self.n_experts = self.routers[0].n_experts
        self.next_id, self.only = first_id, only
        self.own_ends = eos_token_id
        self.writers, self.requests_done, self.n_stray = {}, 0, 0
        self.handles, self.pass_, self.pending, self.pending_bytes = [], None, [], 0
        self.batches = weakref.WeakKeyDictionary()  # cache -> the batch it belongs to
        self.last_batch, self.next_sequences, self.generating = None, None, None
        self.top_k, self.is_settled, self.has_weights = None, False, None
        self.progress = progress if isinstance(progress, Progress) else Progress(wanted=bool(progress))
        self.summary = Summary()
        signature = inspect.signature(self.model.forward)
        self.parameter_names = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]

    # ---- what callers say ----
    def requests(self, ids=None, categories=None, prompt_tokens=None):
        """About the sequences of the next batch: their numbers, categories, and how many tokens of each are the prompt (the rest of one
        forward pass is then recorded as decode: a response that is already known is recorded without generating it again)."""
        if self.next_sequences is not None:
            raise RecordError("requests() twice without a batch between")
        given = [x for x in (ids, categories, prompt_tokens) if x is not None]
        if not given or len({len(x) for x in given}) != 1:
            raise RecordError("requests(): give ids, categories, prompt_tokens, one entry for each sequence of the batch")
        n = len(given[0])
        self.next_sequences = list(zip(ids or [None] * n, categories or [None] * n, prompt_tokens or [None] * n))

    # ---- life ----
    def __enter__(self):
        self.attach()
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.close()
        elif self.keep_partial:
            self.pass_ = None
            try:
                self.close()
            except RecordError as error:  # nothing to keep; the exception that ended the block goes on
                self.summary.notes.append(str(error))
        else:
            self.discard()

    def attach(self):
        self.handles.append(self.model.register_forward_pre_hook(self._before, with_kwargs=True))
        self.handles.append(self.model.register_forward_hook(self._after))
        for router in self.routers:
            self._attach_router(router, {"gate", "experts"})
        if hasattr(self.model, "generate"):
            self._wrap_generate()

    def _attach_router(self, router, which):
        router.handles = []
        if "gate" in which:
            # First of the gate's hooks: expert parallelism replaces ids by those of its rank in a hook of its own.
            router.handles.append(router.gate.register_forward_hook(functools.partial(self._gate, router), prepend=True))
        if "experts" in which and not isinstance(router.experts, (torch.nn.ModuleList, torch.nn.ModuleDict)):
            router.handles.append(router.experts.register_forward_pre_hook(functools.partial(self._experts, router), with_kwargs=True))
        elif "experts" in which and isinstance(router.experts, torch.nn.ModuleList):
            for e, expert in enumerate(router.experts):
                router.handles.append(expert.register_forward_pre_hook(functools.partial(self._one_expert, router, e)))

    def detach(self):
        for handle in self.handles:
            handle.remove()
        for router in self.routers:
            for handle in getattr(router, "handles", []):
                handle.remove()
            router.handles = []
        self.handles = []
        for name in ("generate", "generate_batch", "init_continuous_batching"):
            self.model.__dict__.pop(name, None)

    def discard(self):
        """Ends the recording without a file."""
        self.detach()
        self.pending, self.pass_ = [], None
        for writer in self.writers.values():
            writer.discard()
        self.progress.end()

    def close(self):
        """Writes the file or files; returns a Summary."""
        self.detach()
        try:
            self.flush()
            if self.n_stray:
                self.summary.notes.append(f"{self.n_stray} router calls came from outside the model's forward() and are not recorded")
            if not self.writers:
                raise RecordError("nothing was recorded: no forward pass of the model that the Recorder was given" +
                                  (f" ({self.n_stray} router calls came from elsewhere: give the Recorder the module that you call)" if self.n_stray else ""))
            for phase, writer in self.writers.items():
                phase = "train" if self.phase == "train" else phase
                n_rows, n_requests = writer.n_rows, writer.n_requests
                sha = writer.close(self.progress.chunk)
                if sha is None:
                    self.summary.notes.append(f"no {phase} tokens: no {writer.path}")
                else:
                    self.summary.files.append((writer.path, phase, n_rows, n_requests, sha))
            if not self.summary.files:
                raise RecordError(f"nothing was recorded: no {self.phase} tokens")
        except BaseException:
            self.discard()
            raise
        self.progress.end()
        return self.summary

    def path_of(self, phase):
        if self.phase != "both":
            return self.path
        stem = self.path[:-4] if self.path.endswith(".mpt") else self.path
        return f"{stem}.{phase}.mpt"

    # ---- generate() ----
    def _wrap_generate(self):
        inner = self.model.generate

        @functools.wraps(inner)
        def generate(*args, **kwargs):
            self.generating = self._check_generate(args, kwargs)
            try:
                return inner(*args, **kwargs)
            finally:
                batch = self.generating["batch"]
                self.requests_done += len(batch.sequences) if batch is not None else 0
                self.generating = self.last_batch = self.pass_ = None

        def refuse(*args, **kwargs):
            raise RecordError("continuous batching packs several requests into one row and is not recorded: use generate()")
        self.model.generate = generate
        for name in ("generate_batch", "init_continuous_batching"):
            if hasattr(self.model, name):
                setattr(self.model, name, refuse)

    def _check_generate(self, args, kwargs):
        """Refuses what feeds other columns than each sequence's own next token; returns what the passes need to know."""
        configs = [c for c in (kwargs.get("generation_config"), getattr(self.model, "generation_config", None)) if c is not None]

        def said(name, default=None):
            # An argument counts even when it is None: eos_token_id=None switches ends off.
            values = [kwargs[name]] if name in kwargs else [getattr(c, name, None) for c in configs]
            return next((v for v in values if v is not None), default)
        if said("num_beams", 1) > 1:
            raise RecordError("beam search copies and drops sequences, so that a token has no one request: use num_beams=1 (sampling is fine)")
        for name in ("assistant_model", "prompt_lookup_num_tokens", "custom_generate"):
            if said(name):
                raise RecordError(f"{name}: guessed tokens that are thrown away would be recorded as decoded ones: leave it out")
        if said("penalty_alpha") and said("top_k", 0) > 1:
            raise RecordError("contrastive search feeds candidates that are thrown away: leave out penalty_alpha")
        ends = self.own_ends if self.own_ends is not None else said("eos_token_id")
        ends = set(ends.reshape(-1).tolist() if isinstance(ends, torch.Tensor) else ends if isinstance(ends, (list, tuple, set)) else [] if ends is None else [ends])
        # A sequence that ended by a string or a criterion is fed padding from then on.
        if ends and (kwargs.get("stop_strings") or kwargs.get("stopping_criteria")) and said("pad_token_id") is not None:
            ends.add(int(said("pad_token_id")))
        prompt = next((x for x in (args[0] if args else None, kwargs.get("inputs"), kwargs.get("input_ids")) if x is not None), None)
        embeds = kwargs.get("inputs_embeds")
        n_columns = (prompt if prompt is not None and prompt.dim() == 2 else embeds).shape[1] if prompt is not None or embeds is not None else 1
        if embeds is not None and prompt is not None and prompt.shape[1] > 0:
            n_columns = embeds.shape[1]
        mask = kwargs.get("attention_mask")
        return {"ends": frozenset(ends), "n_prompt_columns": n_columns, "mask": mask if mask is not None and mask.dim() == 2 else None,
                "n_return": said("num_return_sequences", 1), "batch": None}

    # ---- hooks; never part of a compiled graph ----
    @torch.compiler.disable
    def _before(self, module, args, kwargs):
        given = dict(zip(self.parameter_names, args))
        given.update(kwargs)
        for name in PACKED:
            if given.get(name) is not None:
                raise RecordError(f"{name}: several sequences packed into one row cannot be told apart (record one sequence per row, padded)")
        tokens, embeds = given.get("input_ids"), given.get("inputs_embeds")
        shape = tokens.shape if tokens is not None else embeds.shape if embeds is not None else None
        if shape is None or len(shape) < 2:
            raise RecordError("a forward pass without input_ids or inputs_embeds of [sequences, tokens]")
        n, n_columns = int(shape[0]), int(shape[1])
        cache, mask = given.get("past_key_values"), given.get("attention_mask")
        batch = self._batch_of(cache, n, n_columns, mask)
        self._remember(cache, batch)
        is_prompt = batch.prompt_columns_of(n_columns)
        # What generate() feeds after the prompt is never padding.
        own = self._mask_of(mask, batch, n, n_columns) if self.generating is None or is_prompt > 0 else None
        positions = given.get("position_ids")
        if positions is not None and n_columns > 1 and positions.dim() == 2:
            check_positions(positions.expand(n, n_columns).tolist(), None if own is None else own.tolist(), "position_ids")
        if own is not None and is_prompt == n_columns and bool((own != 0).all()):
            own = None
        self.pass_ = Pass(batch, n_columns, is_prompt, own, tokens.detach() if is_prompt < n_columns and tokens is not None and batch.ends else None)
        self.last_batch = batch
        return None

    def _remember(self, cache, batch):
        """A cache says which batch a later pass continues."""
        if cache is not None and not isinstance(cache, (tuple, list)) and hasattr(cache, "get_seq_length"):
            self.batches[cache] = batch

    def _batch_of(self, cache, n, n_columns, mask):
        """The batch that this pass continues, or a new one."""
        generating = self.generating
        if generating is not None and generating["batch"] is not None:
            return generating["batch"]
        past = 0
        known = None
        if isinstance(cache, (tuple, list)):
            past = int(cache[0][0].shape[-2]) if cache and cache[0] is not None else 0
            known = self.last_batch if past > 0 else None
        elif cache is not None:
            known = self.batches.get(cache)
            try:
                past = int(cache.get_seq_length())
            except ValueError:  # layers without attention keep no columns to count
                past = known.columns if known is not None else max(0, mask.shape[-1] - n_columns) if isinstance(mask, torch.Tensor) else 0
        if known is not None and past > 0 and generating is None:
            if len(known.sequences) != n or known.columns != past:
                raise RecordError(f"a pass of {n} sequences continues a cache of {past} columns where {known.columns} columns of {len(known.sequences)} "
                                  "sequences were seen: a cache that was cropped or reordered cannot be followed")
            if self.next_sequences is None and not (known.has_decoded and n_columns > 1):
                return known
        # A new batch; a turn of a conversation is a request of its own, at its position.
        firsts = [0] * n
        if past > 0:
            if known is not None and len(known.sequences) == n and known.columns == past:
                self.flush()  # counts their tokens
                firsts = [s.first_position + s.n_real for s in known.sequences]
            elif isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.shape[1] >= past + n_columns:
                firsts = (mask[:, :mask.shape[1] - n_columns] != 0).sum(dim=1).tolist()
            else:
                firsts = [past] * n
        about = self.next_sequences or [(None, None, None)] * n
        self.next_sequences = None
        if len(about) != n:
            each = generating["n_return"] if generating else 1
            if len(about) * each != n or any(a[0] is not None for a in about):
                raise RecordError(f"requests() told of {len(about)} sequences and the batch has {n}" +
                                  (" (with num_return_sequences, leave the ids to the recorder)" if each > 1 else ""))
            about = [a for a in about for _ in range(each)]
        sequences = []
        for (id_, category, n_prompt), first in zip(about, firsts):
            if id_ is None:
                id_, self.next_id = self.next_id, self.next_id + 1
            sequences.append(Sequence(int(id_), category, first, n_prompt))
        if generating is not None:
            n_prompt_columns = max(generating["n_prompt_columns"], past + 1)
            batch = Batch(sequences, past, n_prompt_columns, generating["ends"])
            batch.prompt_mask = generating["mask"]
            generating["batch"] = batch
        else:
            ends = self.own_ends if self.own_ends is not None else getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
            batch = Batch(sequences, past, None, frozenset(ends if isinstance(ends, (list, tuple, set)) else [] if ends is None else [ends]))
            batch.prompt_mask = None
        return batch

    def _mask_of(self, mask, batch, n, n_columns):
        """[n, n_columns] of 0 and 1 for this pass's columns, or None when all are tokens."""
        if isinstance(mask, torch.Tensor) and mask.dim() == 2:
            if mask.shape[0] != n or mask.shape[1] < n_columns:
                raise RecordError(f"an attention_mask of {list(mask.shape)} for {n} sequences of {n_columns} tokens")
            # Static caches have columns to spare behind the last.
            end = min(mask.shape[1], batch.columns + n_columns) if mask.shape[1] > batch.columns else mask.shape[1]
            own = mask[:, end - n_columns:end] != 0
        elif batch.prompt_mask is not None:
            # generate() has made a mask of its own shape out of the prompts' one.
            prompt = batch.prompt_mask.repeat_interleave(n // batch.prompt_mask.shape[0], dim=0)
            own = torch.ones((n, n_columns), dtype=torch.bool, device=prompt.device)
            part = prompt[:, batch.columns:batch.columns + n_columns] != 0
            own[:, :part.shape[1]] = part
        elif mask is None or batch.n_prompt_columns is not None:
            return None
        else:
            raise RecordError(f"an attention_mask of {type(mask).__name__ if not isinstance(mask, torch.Tensor) else str(mask.dim()) + ' dimensions'} does not say "
                              "which tokens are padding: give the mask of [sequences, tokens]")
        if batch.columns == 0 and n_columns > 1:
            check_mask(own.tolist(), "attention_mask")
        return own.clone()

    def _gate(self, router, module, args, output):
        # disable() costs as much as the rest of this, so it is only gone through while a graph is traced.
        if torch.compiler.is_compiling():
            return self._gate_uncompiled(router, module, output)
        return self._gate_now(router, module, output)

    @torch.compiler.disable
    def _gate_uncompiled(self, router, module, output):
        return self._gate_now(router, module, output)

    def _gate_now(self, router, module, output):
        now = self.pass_
        if now is None:
            if self.generating is not None:
                raise RecordError("generate() calls the model's forward() around its hooks here, as transformers 4 does for prefill_chunk_size: leave that out")
            self.n_stray += 1
            return None
        if router.places is not None:  # the same members of the tuple as on the first pass
            ids, weights = output[router.places[0]], None if router.places[1] is None else output[router.places[1]]
            return self._take(router, now, ids, weights)
        ids, weights, logits = chosen_in(output, now.n_rows, self.n_experts)
        if router.source is None:
            router.output = output
            seen = now.seen.setdefault(router.layer, {})
            if ids is not None:
                seen["gate"] = (ids, weights)
            elif logits is not None and router.rule is not None:
                seen["rule"] = router.rule(router.block, module, logits)
        elif router.source == "gate":
            self._take(router, now, ids, weights)
        elif router.source == "rule":
            self._take(router, now, *router.rule(router.block, module, logits) if logits is not None else (None, None))
        return None

    @torch.compiler.disable
    def _experts(self, router, module, args, kwargs):
        now = self.pass_
        if now is None or router.source not in (None, "experts"):
            return None
        ids, weights, _ = chosen_in([list(args[1:]), [v for k, v in kwargs.items() if k != "hidden_states"]], now.n_rows, self.n_experts)
        if router.source is None and ids is not None:
            now.seen.setdefault(router.layer, {})["experts"] = (ids, weights)
        elif router.source == "experts":
            self._take(router, now, ids, weights)
        return None

    @torch.compiler.disable
    def _one_expert(self, router, expert, module, args):
        """First pass of a list of experts: how many tokens this one was given."""
        if self.pass_ is not None and router.source is None and args:
            given = self.pass_.seen.setdefault(router.layer, {}).setdefault("given", {})
            given[expert] = given.get(expert, 0) + args[0].numel() // max(args[0].shape[-1], 1)
        return None

    def _take(self, router, now, ids, weights):
        if ids is None or ids.numel() != now.n_rows * ids.shape[-1]:
            raise RecordError(f"{router.name}: its {router.source} gave no ids for {now.n_rows} tokens in this pass, but did in the first")
        if router.layer in now.chosen:
            raise RecordError(f"{router.name} ran twice in one forward pass (shared layers have no index of their own)")
        now.chosen[router.layer] = (ids, weights)

    # ---- first pass ----
    def _settle(self, now):
        """Decides for each layer where its ids come from."""
        missing = [r.layer for r in self.routers if not set(now.seen.get(r.layer, ())) & {"gate", "experts", "rule"}]
        if missing:
            r = next(r for r in self.routers if r.layer == missing[0])
            ran = r.layer in now.seen
            why = (f"{type(r.gate).__name__} returns logits only, and how {type(r.block).__name__} chooses by them is not known here (give rule=...)" if ran
                   else "its gate did not run: a compiled or replaced kernel goes around it (record without it; torch.compiler.reset() after attaching)")
            raise RecordError(f"{r.name}: no ids for {now.n_rows} tokens: {why}")
        for r in self.routers:
            seen = now.seen[r.layer]
            r.source = "gate" if "gate" in seen else "experts" if "experts" in seen else "rule"
            if "gate" in seen and "experts" in seen and not self._same(seen["gate"][0], seen["experts"][0]):
                many = torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
                if self.ids_from is None and not many:
                    raise RecordError(f"{r.name}: the gate's ids and those handed to the experts differ (say which count: ids_from=\"gate\" or \"experts\")")
                r.source = self.ids_from or "gate"
            if r.source == "rule" and "given" in seen:
                counts = torch.bincount(seen["rule"][0].reshape(-1), minlength=self.n_experts).tolist()
                given = [seen["given"].get(e, 0) for e in range(self.n_experts)]
                if given != counts and sum(given) == sum(counts):
                    raise RecordError(f"{r.name}: {r.rule_name} gives expert loads {counts[:8]}... and the experts were given {given[:8]}...")
            r.places, r.output = places_of(r.output, *seen["gate"]) if r.source == "gate" else None, None
            for handle in r.handles:
                handle.remove()
            self._attach_router(r, {"experts"} if r.source == "experts" else {"gate"})
            now.chosen[r.layer] = seen[r.source]
            if r.n_zero and r is self.routers[0]:
                self.summary.notes.append(f"{r.n_zero} experts of a layer hand their input back: places of a list that hold one are recorded as unused")
        self.top_k = max(now.chosen[layer][0].shape[-1] for layer in self.layers)
        self.has_weights = all(now.chosen[layer][1] is not None for layer in self.layers)
        if self.weights and not self.has_weights:
            raise RecordError("the routers do not give weights of the chosen experts: leave out weights")
        for text in sorted({r.describe().replace(r.name, "the block") for r in self.routers}):
            layers = [r.layer for r in self.routers if r.describe().replace(r.name, "the block") == text]
            self.summary.notes.append(f"layers {layers[0]} to {layers[-1]} ({len(layers)}): {text}")
        for phase in PHASES if self.phase == "both" else ("prefill",) if self.phase == "train" else (self.phase,):
            named = "train" if self.phase == "train" else phase
            self.writers[phase] = TraceWriter(self.path_of(phase), self.layers, self.n_experts, self.top_k, named, self.model_name,
                                              is_ranked=self.has_weights, weights=self.weights)
        self.is_settled = True

    @staticmethod
    def _same(a, b):
        return a.shape == b.shape and bool((a.to(b.device).long().sort(dim=-1).values == b.long().sort(dim=-1).values).all())

    @torch.compiler.disable
    def _after(self, module, args, output):
        now, self.pass_ = self.pass_, None
        if now is None:
            return None
        if not self.is_settled:
            self._settle(now)
        # A cache that the pass made itself.
        for value in (getattr(output, "past_key_values", None), *(output if isinstance(output, tuple) else ())):
            self._remember(value, now.batch)
        if len(now.chosen) != len(self.layers):
            missing = [layer for layer in self.layers if layer not in now.chosen]
            raise RecordError(f"layers {missing[:8]} gave no ids in this pass: a compiled graph or a replaced kernel goes around their gates")
        self._stack(now)
        now.batch.advance(now.n_columns, now.is_prompt)
        self.pending.append(now)
        self.pending_bytes += now.n_rows * len(self.layers) * self.top_k * (12 if self.has_weights else 8)
        if self.pending_bytes >= PENDING_BYTES or len(self.pending) >= PENDING_PASSES:
            self.flush()
        return None

    def _stack(self, now):
        """ids and weights [layers, rows, k] on the device of the first layer: copies, since later passes may reuse the model's buffers."""
        device = now.chosen[self.layers[0]][0].device
        chosen = [now.chosen[layer] for layer in self.layers]
        ids = [i.to(device).reshape(now.n_rows, -1) for i, _ in chosen]
        weights = [w.to(device).reshape(now.n_rows, -1) for _, w in chosen] if self.has_weights else []
        for n, r in enumerate(self.routers):
            if r.n_zero:  # experts that hand their input back need no place and no transfer
                zero = (ids[n] >= self.n_experts) & (ids[n] < self.n_experts + r.n_zero)
                ids[n] = torch.where(zero, -1, ids[n])
                if self.has_weights:
                    weights[n] = torch.where(zero, -1.0, weights[n].float())
            short = self.top_k - ids[n].shape[-1]
            if short:
                ids[n] = torch.nn.functional.pad(ids[n], (0, short), value=-1)
                if self.has_weights:
                    weights[n] = torch.nn.functional.pad(weights[n], (0, short), value=-1.0)
        with torch.no_grad():
            now.ids = torch.stack(ids)
            now.weights = torch.stack(weights) if self.has_weights else None
        now.chosen, now.seen = {}, {}

    def _in_order(self, passes):
        """ids and weights [layers, sequences, columns, k] of passes of one batch, still on their device: by falling weight, equal ones as the gate listed
        them; unused places last."""
        n = len(passes[0].batch.sequences)

        def joined(parts):
            return torch.cat([p.reshape(len(self.layers), n, -1, self.top_k) for p in parts], dim=2)
        ids, weights = joined([p.ids for p in passes]).to(torch.int16), None
        if self.has_weights:
            weights, order = joined([p.weights for p in passes]).float().sort(dim=-1, descending=True, stable=True)
            ids = ids.gather(-1, order)
        elif any(r.n_zero for r in self.routers):
            ids = ids.gather(-1, (ids < 0).sort(dim=-1, stable=True).indices)
        if self.weights:
            scales = torch.tensor([1.0 / r.scale for r in self.routers], device=weights.device).reshape(-1, 1, 1, 1)
            weights = (weights * scales).clamp(0.0, 1.0).mul(65535.0).round().to(torch.int32)
        return ids, weights if self.weights else None

    # ---- off the device ----
    def flush(self):
        """Brings the waiting passes over, one batch at a time, and hands their rows to the writers."""
        pending, self.pending, self.pending_bytes = self.pending, [], 0
        at = 0
        while at < len(pending):
            end = at + 1
            while end < len(pending) and pending[end].batch is pending[at].batch:
                end += 1
            self._flush_batch(pending[at:end])
            at = end
        self.progress.show(sum(w.n_rows for w in self.writers.values()), self.requests_done)

    def _flush_batch(self, passes):
        batch = passes[0].batch
        ids, weights = (None if t is None else t.cpu() for t in self._in_order(passes))
        self._check(ids)
        n_columns, is_prompt = ids.shape[2], sum(p.is_prompt for p in passes)
        masks = self._joined([p.mask for p in passes], passes, torch.bool, 1)
        tokens = self._joined([p.tokens for p in passes], passes, torch.int64, -1)
        byte_ids = self.n_experts <= 255
        for s, sequence in enumerate(batch.sequences):
            taken = sequence.take(n_columns, is_prompt, masks[s] if masks is not None else None, tokens[s] if tokens is not None else None, batch.ends)
            for phase, (position, columns) in taken.items():
                writer = self.writers.get(phase)
                if writer is None:
                    continue
                if phase not in sequence.handles:
                    sequence.handles[phase] = writer.request(sequence.id, position, sequence.category, self.source)
                whole = isinstance(columns, range) or len(columns) == n_columns
                rows = ids[:, s] if whole else ids[:, s, torch.tensor(columns)]
                rows = rows.to(torch.uint8 if byte_ids else torch.int16).contiguous()
                w = None
                if weights is not None:
                    w = weights[:, s] if whole else weights[:, s, torch.tensor(columns)]
                    w = w.contiguous().numpy().astype("uint16").tobytes()
                writer.add(sequence.handles[phase], rows.shape[1], rows.numpy().tobytes(), w)

    @staticmethod
    def _joined(parts, passes, dtype, blank):
        """Those of all passes beside each other as lists, blank where a pass has none; None when none has."""
        if all(p is None for p in parts):
            return None
        shape = next(p for p in parts if p is not None).shape[0]
        return torch.cat([p.to("cpu", dtype) if p is not None else torch.full((shape, now.n_columns), blank, dtype=dtype)
                          for p, now in zip(parts, passes)], dim=1).tolist()

    def _check(self, ids):
        """Every list holds different experts below n_experts."""
        real = ids if self.top_k == 1 else ids.sort(dim=-1).values
        low = -1 if bool((ids == -1).any()) else 0
        if int(real.min()) < low or int(real.max()) >= self.n_experts:
            raise RecordError(f"a router chose expert {int(real.max())} of {self.n_experts}")
        if self.top_k > 1 and bool(((real[..., 1:] == real[..., :-1]) & (real[..., 1:] >= 0)).any()):
            raise RecordError("a router chose one expert twice for a token")
