"""OpenAI's own client is the judge of OpenAI's API."""

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from qwenops.engines.fake import Script
from qwenops.generation import GenerationRequest, JsonObject, JsonSchema, Tokens
from tests.serve.conftest import MODEL, Served, Start, make_served, scripted

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}


def client(served: Served) -> OpenAI:
    return OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def test_a_chat_is_answered_with_text_usage_and_a_finish_reason(start: Start) -> None:
    served = start(make_served(script=scripted("It rains today.")))
    with client(served) as api:
        answer = api.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "It rains today."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("<user>hello<assistant><think></think>")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.id.startswith("chatcmpl-")


def test_a_streamed_chat_has_the_same_text_as_a_whole_one(start: Start) -> None:
    served = start(make_served(script=scripted("电话坏了三天🙂, and nobody came.")))
    with client(served) as api:
        whole = api.chat.completions.create(model=MODEL, messages=HELLO)
        stream = api.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content == "电话坏了三天🙂, and nobody came."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_last_in_a_stream_when_it_is_asked_for(server: Served) -> None:
    with client(server) as api:
        stream = api.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}, max_tokens=5
        )
        chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "length"


async def test_the_asynchronous_client_streams_two_answers_at_once(server: Served) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as api:
        stream = await api.chat.completions.create(model=MODEL, messages=HELLO, stream=True, n=2, max_tokens=4)
        texts = {0: "", 1: ""}
        reasons = {}
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                reasons[choice.index] = choice.finish_reason
    assert texts[0]
    assert texts[0] == texts[1], "the fake answers equal prompts equally"
    assert reasons == {0: "length", 1: "length"}


def test_each_of_several_answers_gets_a_seed_of_its_own(server: Served) -> None:
    with client(server) as api:
        answer = api.chat.completions.create(model=MODEL, messages=HELLO, n=3, seed=7, max_tokens=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert sorted(request.sampling.seed or 0 for request in server.engine.requests) == [7, 8, 9]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


def test_every_sampling_option_reaches_the_engine(server: Served) -> None:
    with client(server) as api:
        api.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            max_completion_tokens=3,
            temperature=0.3,
            top_p=0.9,
            seed=-1,
            stop=["END", "\n\n"],
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            logit_bias={"42": 5, "7": -100},
            extra_body={"top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True},
        )
    sampling = server.engine.requests[0].sampling
    assert sampling.max_tokens == 3
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.3, 0.9, 0, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.5, -0.5, 1.1)
    assert sampling.stop == ("END", "\n\n")
    assert sampling.seed == 2**63 - 1
    assert sampling.logit_bias == ((42, 5.0), (7, -100.0))
    assert sampling.ignore_eos


def test_a_stop_string_may_be_a_single_one(start: Start) -> None:
    served = start(make_served(script=scripted("one two three")))
    with client(served) as api:
        answer = api.chat.completions.create(model=MODEL, messages=HELLO, stop=" two")
    assert answer.choices[0].message.content == "one"


def test_log_probabilities_come_with_each_token(server: Served) -> None:
    with client(server) as api:
        answer = api.chat.completions.create(model=MODEL, messages=HELLO, logprobs=True, top_logprobs=3, max_tokens=4)
        stream = api.chat.completions.create(
            model=MODEL, messages=HELLO, logprobs=True, top_logprobs=3, max_tokens=4, stream=True
        )
        streamed = [
            entry for chunk in stream if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content or ()
        ]
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert len(content) == 4
    assert "".join(entry.token for entry in content) == answer.choices[0].message.content
    assert all(len(entry.top_logprobs) == 3 for entry in content)
    assert content[0].top_logprobs[0].logprob == content[0].logprob < 0
    assert bytes(content[0].bytes or ()).decode() == content[0].token
    assert [entry.token for entry in streamed] == [entry.token for entry in content]


def test_thoughts_come_apart_from_the_answer(start: Start) -> None:
    pieces = ("<th", "ink>", "\nLet me", " see.", "\n</thi", "nk>\n", "\nIt is", " fine.")
    served = start(make_served(script=scripted(pieces=pieces)))
    with client(served) as api:
        options: Any = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}
        whole = api.chat.completions.create(model=MODEL, messages=HELLO, **options)
        stream = api.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **options)
        said, thought = "", ""
        for chunk in stream:
            said += chunk.choices[0].delta.content or ""
            thought += getattr(chunk.choices[0].delta, "reasoning_content", "") or ""
    message: Any = whole.choices[0].message
    assert message.content == said == "It is fine."
    assert message.reasoning_content == thought == "Let me see."
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None
    assert whole.usage.completion_tokens_details.reasoning_tokens == 7


def test_reasoning_effort_switches_thinking_on_and_off(server: Served) -> None:
    tokenizer = server.serving.model().tokenizer
    with client(server) as api:
        api.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1, reasoning_effort="low")
        api.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1, reasoning_effort="none")
    thinking, not_thinking = (
        tokenizer.decode(request.prompt.ids) for request in server.engine.requests if isinstance(request.prompt, Tokens)
    )
    assert thinking.endswith("<assistant>")
    assert not_thinking.endswith("<think></think>")


CALL = 'One moment.\n<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'


@pytest.mark.parametrize("cut", [1, 3, 7, 1000])
def test_calls_of_tools_are_found_in_the_text_wherever_it_is_cut(start: Start, cut: int) -> None:
    pieces = tuple(CALL[at : at + cut] for at in range(0, len(CALL), cut))
    served = start(make_served(script=scripted(pieces=pieces)))
    with client(served) as api:
        whole = api.chat.completions.create(model=MODEL, messages=HELLO, tools=[WEATHER])
        stream = api.chat.completions.create(model=MODEL, messages=HELLO, tools=[WEATHER], stream=True)
        chunks = list(stream)
    message = whole.choices[0].message
    assert message.content == "One moment."
    assert message.tool_calls is not None
    call: Any = message.tool_calls[0]
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "北京"}
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "tool_calls"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "One moment."
    deltas = [each for chunk in chunks for each in chunk.choices[0].delta.tool_calls or ()]
    assert len(deltas) == 1
    assert deltas[0].index == 0
    assert deltas[0].function is not None
    assert deltas[0].function.name == "weather"
    assert json.loads(deltas[0].function.arguments or "") == {"city": "北京"}


def test_a_conversation_with_a_call_and_its_result_goes_back_in(start: Start) -> None:
    served = start(make_served(script=scripted(CALL)))
    with client(served) as api:
        first = api.chat.completions.create(model=MODEL, messages=HELLO, tools=[WEATHER])
        called = first.choices[0].message
        assert called.tool_calls is not None
        messages: list[Any] = [
            *HELLO,
            called,
            {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "sunny"},
        ]
        second = api.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert second.choices[0].message.content == "One moment."


def test_a_required_tool_is_called_through_the_structure_of_the_answer(start: Start) -> None:
    served = start(make_served(script=scripted('{"name": "clock", "arguments": {}}')))
    with client(served) as api:
        answer = api.chat.completions.create(
            model=MODEL, messages=HELLO, tools=[WEATHER, CLOCK], tool_choice="required"
        )
        named = api.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            tools=[WEATHER, CLOCK],
            tool_choice={"type": "function", "function": {"name": "clock"}},
            stream=True,
        )
        deltas = [each for chunk in named for each in chunk.choices[0].delta.tool_calls or ()]
    call: Any = next(iter(answer.choices[0].message.tool_calls or ()))
    assert call.function.name == "clock"
    assert answer.choices[0].message.content is None
    assert answer.choices[0].finish_reason == "tool_calls"
    assert [each.function.name for each in deltas if each.function] == ["clock"]
    required, chosen = (request.sampling.structure for request in served.engine.requests)
    assert isinstance(required, JsonSchema)
    names = [each["properties"]["name"]["const"] for each in json.loads(required.schema)["anyOf"]]
    assert names == ["weather", "clock"]
    assert isinstance(chosen, JsonSchema)
    assert json.loads(chosen.schema)["properties"]["name"] == {"const": "clock"}


def test_no_tool_is_offered_where_the_caller_wants_none(start: Start) -> None:
    served = start(make_served(script=scripted(CALL)))
    with client(served) as api:
        answer = api.chat.completions.create(model=MODEL, messages=HELLO, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.content == CALL
    assert answer.choices[0].message.tool_calls is None


def test_only_one_call_is_made_when_calls_may_not_be_parallel(start: Start) -> None:
    served = start(make_served(script=scripted(CALL + CALL)))
    with client(served) as api:
        answer = api.chat.completions.create(model=MODEL, messages=HELLO, tools=[WEATHER], parallel_tool_calls=False)
        both = api.chat.completions.create(model=MODEL, messages=HELLO, tools=[WEATHER])
    assert len(answer.choices[0].message.tool_calls or ()) == 1
    assert len(both.choices[0].message.tool_calls or ()) == 2


class Decision(BaseModel):
    complaint: bool


def test_structured_output_goes_through_the_clients_own_parser(start: Start) -> None:
    served = start(make_served(script=scripted('{"complaint": true}')))
    with client(served) as api:
        parsed = api.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Decision)
        api.chat.completions.create(model=MODEL, messages=HELLO, response_format={"type": "json_object"})
        api.chat.completions.create(model=MODEL, messages=HELLO, response_format={"type": "text"})
    assert parsed.choices[0].message.parsed == Decision(complaint=True)
    by_schema, by_object, free = (request.sampling.structure for request in served.engine.requests)
    assert isinstance(by_schema, JsonSchema)
    assert json.loads(by_schema.schema)["properties"]["complaint"]["type"] == "boolean"
    assert by_object == JsonObject()
    assert free is None


def test_a_text_is_continued_and_echoed(start: Start) -> None:
    served = start(make_served(script=scripted(" Paris.")))
    with client(served) as api:
        answer = api.completions.create(model=MODEL, prompt="The capital of France is", echo=True)
        stream = api.completions.create(model=MODEL, prompt="The capital of France is", echo=True, stream=True)
        streamed = "".join(chunk.choices[0].text for chunk in stream)
    assert answer.choices[0].text == streamed == "The capital of France is Paris."
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("The capital of France is")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [(97, 98)]),
        (["ab", "c"], [(97, 98), (99,)]),
        ([97, 98], [(97, 98)]),
        ([[97], [98, 99]], [(97,), (98, 99)]),
    ],
)
def test_a_prompt_may_be_text_texts_tokens_or_lists_of_tokens(
    server: Served, prompt: Any, expected: list[tuple[int, ...]]
) -> None:
    with client(server) as api:
        answer = api.completions.create(model=MODEL, prompt=prompt, max_tokens=1, n=2)
    prompts = [request.prompt for request in server.engine.requests]
    assert [prompt.ids for prompt in prompts if isinstance(prompt, Tokens)] == [
        ids for ids in expected for _ in range(2)
    ]
    assert [choice.index for choice in answer.choices] == list(range(2 * len(expected)))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(len(ids) for ids in expected)


def test_completions_give_log_probabilities_with_offsets(server: Served) -> None:
    with client(server) as api:
        answer = api.completions.create(model=MODEL, prompt="ab", max_tokens=3, logprobs=2)
        stream = api.completions.create(model=MODEL, prompt="ab", max_tokens=3, logprobs=2, stream=True)
        offsets = [
            offset
            for chunk in stream
            if chunk.choices[0].logprobs
            for offset in chunk.choices[0].logprobs.text_offset or ()
        ]
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.tokens is not None
    assert "".join(found.tokens) == answer.choices[0].text
    assert found.text_offset == offsets == [0, len(found.tokens[0]), len(found.tokens[0] + found.tokens[1])]
    assert all(len(each) == 2 for each in found.top_logprobs or ())


def test_the_served_model_is_listed_and_found(server: Served) -> None:
    with client(server) as api:
        assert [model.id for model in api.models.list()] == [MODEL]
        assert api.models.retrieve(MODEL).id == MODEL
        with pytest.raises(openai.NotFoundError, match="not served here"):
            api.models.retrieve("gpt-4")
        with pytest.raises(openai.NotFoundError) as caught:
            api.chat.completions.create(model="gpt-4", messages=HELLO)
    body: Any = caught.value.body
    assert body["code"] == "model_not_found"
    assert body["param"] == "model"
    assert MODEL in body["hint"]


def test_the_fields_that_clients_send_for_their_own_use_change_nothing(server: Served) -> None:
    with client(server) as api:
        api.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            max_tokens=1,
            user="someone",
            metadata={"job": "7"},
            store=False,
            service_tier="auto",
            prompt_cache_key="k",
            safety_identifier="s",
            modalities=["text"],
        )
    assert len(server.engine.requests) == 1


def test_an_answer_that_was_begun_is_continued(server: Served) -> None:
    with client(server) as api:
        api.chat.completions.create(
            model=MODEL,
            messages=[*HELLO, {"role": "assistant", "content": "It is"}],
            max_tokens=1,
            extra_body={"continue_final_message": True},
        )
    prompt = server.engine.requests[0].prompt
    assert isinstance(prompt, Tokens)
    assert "<assistant>It is<think>" in server.serving.model().tokenizer.decode(prompt.ids)


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_cache_held_is_counted_once_for_each_prompt(start: Start, stream: bool) -> None:  # noqa: FBT001 -- pytest passes it
    """The first answer to a prompt finds what was there before; the others also what the first has computed."""

    def script(request: GenerationRequest) -> Script:
        return Script(text="Yes.", cached_tokens=1 if request.id.endswith(("-0", "-2")) else 3)

    served = start(make_served(script=script))
    body: dict[str, Any] = {
        "prompt": ["abcd", "efgh"],
        "n": 2,
        "stream": stream,
        "stream_options": {"include_usage": True},
    }
    with client(served) as api:
        if stream:
            chunks = list(api.completions.create(model=MODEL, **body))
            usage = chunks[-1].usage
        else:
            del body["stream_options"]
            usage = api.completions.create(model=MODEL, **body).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 2
    assert served.wait_for_records(1)[0].cached_tokens == 2
