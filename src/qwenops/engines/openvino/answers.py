"""One answer on its way: how its tokens are chosen, what its text is, and when it ends."""

from collections.abc import Callable

from qwenops.engines.openvino.sampling import Chosen, Sampler
from qwenops.engines.openvino.scheduler import Tracked
from qwenops.engines.openvino.structure import Grammar
from qwenops.engines.stopping import StopStrings
from qwenops.generation import Chunk, FinishReason, GenerationRequest, TokenLogprob, Usage
from qwenops.models.tokenizer import Detokenizer, Tokenizer


class Answer:
    """What one request remembers between two tokens.

    Args:
        request: What was asked.
        sequence: Its tokens; `max_new_tokens` is already bounded by the context.
        tokenizer: Of the model.
        eos: Tokens that end an answer.
        grammar: The form the answer must keep, if any.
        entropy: Where a seed comes from when the request has none.
    """

    def __init__(
        self,
        request: GenerationRequest,
        sequence: Tracked,
        tokenizer: Tokenizer,
        eos: frozenset[int],
        grammar: Grammar | None,
        entropy: Callable[[], int],
    ) -> None:
        """Start with an empty text."""
        sampling = request.sampling
        self.sequence = sequence
        self.sampler = Sampler(sampling, sequence.tokens, entropy, grammar)
        self._tokenizer = tokenizer
        self._eos = eos if not sampling.ignore_eos or grammar else frozenset[int]()
        self._grammar = grammar
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopStrings(sampling.stop, include=sampling.include_stop)

    def push(self, chosen: Chosen) -> Chunk:
        """Take the next token and return the piece of the answer that it makes; the last one says why it ended.

        Raises:
            EngineError: The grammar ran into a limit of its own.
        """
        token = chosen.token_id
        ended = token in self._eos
        text = "" if ended else self._stops.push(self._detokenizer.push((token,)))
        self.sampler.saw(token)
        if self._grammar is not None:
            self._grammar.accept(token)
            ended = ended or self._grammar.is_finished
        reason = None
        completion_tokens = self.sequence.num_generated + 1
        if ended or self._stops.found is not None:
            reason = FinishReason.STOP
        elif completion_tokens >= self.sequence.max_new_tokens:
            reason = FinishReason.LENGTH
        if reason is not None and self._stops.found is None:
            text += self._stops.push(self._detokenizer.finish())
            text += self._stops.finish()
        return Chunk(
            text=text,
            token_ids=(token,),
            logprobs=self._logprobs(chosen),
            finish_reason=reason,
            usage=self._usage(completion_tokens) if reason is not None else None,
        )

    def _logprobs(self, chosen: Chosen) -> tuple[TokenLogprob, ...]:
        if chosen.logprob is None:
            return ()
        top = tuple(self._logprob(token, logprob) for token, logprob in chosen.top)
        raw = self._tokenizer.token_bytes(chosen.token_id)
        return (TokenLogprob(token_id=chosen.token_id, raw=raw, logprob=chosen.logprob, top=top),)

    def _logprob(self, token_id: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(token_id=token_id, raw=self._tokenizer.token_bytes(token_id), logprob=logprob)

    def _usage(self, completion_tokens: int) -> Usage:
        return Usage(
            prompt_tokens=self.sequence.num_prompt,
            completion_tokens=completion_tokens,
            cached_tokens=self.sequence.cached_tokens,
        )
