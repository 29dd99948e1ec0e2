"""Chat templates: what they may use, what they must not reach, and how their refusals are told."""

import json
from datetime import UTC, datetime

import pytest

from qwenops.errors import InvalidRequestError, ModelLoadError
from qwenops.generation import Message, Messages, ToolCall
from qwenops.models.template import Rendered, compile_template, control_tokens, render_conversation

CONTROL = control_tokens(["<|im_start|>", "<|im_end|>", "<think>", "</think>"], ["<|im_start|>", "<|im_end|>"])


def rendered(template: str, *messages: Message, continue_final: bool = False) -> Rendered:
    render = compile_template(template, now=lambda: datetime(2026, 11, 23, tzinfo=UTC))
    prompt = Messages(messages=messages or (Message(role="user", content="Hi"),), continue_final=continue_final)
    return render_conversation(render, prompt, CONTROL)


def test_what_published_templates_are_written_with_works() -> None:
    template = (
        "{%- set ns = namespace(found=false, last=messages|length - 1) -%}\n"
        "{%- for m in messages[::-1] -%}\n"
        "    {%- if not ns.found and m.role == 'user' and not (m.content.startswith('<a>')) -%}\n"
        "        {%- set ns.found = true -%}{%- set ns.last = (messages|length - 1) - loop.index0 -%}\n"
        "    {%- endif -%}\n"
        "{%- endfor -%}\n"
        "{{- ns.last }} {{ messages[-1].content.split('</think>')[-1].lstrip('\\n') }}\n"
        "{%- if messages[0].tool_calls is defined %} {{ messages[0].tool_calls[0].function.arguments | tojson }}"
        "{%- endif %} {{ enable_thinking is defined and enable_thinking is false }}"
    )
    call = ToolCall(id="1", name="f", arguments='{"é":1}')
    messages = (
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="user", content="question"),
        Message(role="user", content="<a>"),
        Message(role="assistant", content="<think>\nx\n</think>\n\nyes"),
    )
    assert rendered(template, *messages).text == '1 yes {"é": 1} True'


def test_a_refusal_by_the_template_is_the_callers_error() -> None:
    with pytest.raises(InvalidRequestError, match="roles must alternate") as caught:
        rendered("{{ raise_exception('roles must alternate') }}")
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('id') }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ nothing.such.thing }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
    ],
)
def test_a_template_that_reaches_out_of_its_box_or_fails_is_refused(template: str) -> None:
    with pytest.raises(InvalidRequestError, match="refuses"):
        rendered(template)


@pytest.mark.parametrize("template", ["{% for %}", "{{ unclosed", "{{ x | no_such_filter }}"])
def test_a_template_that_is_no_template_is_a_damaged_model(template: str) -> None:
    with pytest.raises(ModelLoadError, match="line 1"):
        rendered(template)


def test_a_template_may_ask_for_the_date_and_mark_what_was_generated() -> None:
    template = (
        "{% generation %}{{ strftime_now('%Y-%m-%d') }}{% endgeneration %}"
        "{% for m in messages %}{% break %}{% endfor %}"
    )
    assert rendered(template).text == "2026-11-23"


def test_a_trimming_template_trims_what_is_continued() -> None:
    template = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"
    messages = (Message(role="user", content="a"), Message(role="assistant", content="b  "))
    assert rendered(template, *messages, continue_final=True).text == "[a][b"


def test_a_template_that_drops_the_last_message_cannot_continue_it() -> None:
    with pytest.raises(InvalidRequestError, match="cannot be continued"):
        rendered("nothing", Message(role="assistant", content="b"), continue_final=True)


def test_a_template_that_takes_texts_apart_cannot_make_a_control_token() -> None:
    template = "{{ messages[0].content.split('</think>')[-1].lstrip('<') }}{{ messages[0].content | upper | lower }}"
    result = rendered(template, Message(role="assistant", content="<|im_start|></think><|im_end|>"))
    assert CONTROL.reserved.search(result.guarded) is None
    assert result.text == "|im_end|><|im_start|></think><|im_end|>"


@pytest.mark.parametrize(
    "arguments",
    ["[" * 100_000, '{"a": ' * 100_000, '{"a": ' * 5000 + "1" + "}" * 5000, '{"a":' + "[" * 700 + "]" * 700 + "}"],
)
def test_arguments_nested_deeper_than_anyone_can_follow_are_text_or_refused(arguments: str) -> None:
    call = ToolCall(id="1", name="f", arguments=arguments)
    template = "{% for m in messages %}{{ m.tool_calls[0].function.arguments | tojson }}{% endfor %}"
    try:
        text = rendered(template, Message(role="assistant", content="", tool_calls=(call,))).text
    except InvalidRequestError as error:
        assert error.param == "messages"  # noqa: PT017 -- either of two ends is right
    else:
        assert json.loads(text) in (arguments, json.loads(arguments) if text[0] == "{" else None)
