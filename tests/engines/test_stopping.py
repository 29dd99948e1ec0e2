from hypothesis import given
from hypothesis import strategies as st

from qwenops.engines.stopping import StopStrings

texts = st.text(alphabet="abX\n您", max_size=12)


def read(pieces: list[str], stop: list[str], *, include: bool = False) -> tuple[str, str | None]:
    stops = StopStrings(stop, include=include)
    shown = "".join(stops.push(piece) for piece in pieces)
    return shown + (stops.finish() if stops.found is None else ""), stops.found


@given(st.lists(texts), st.lists(texts, max_size=3))
def test_however_text_is_cut_the_answer_ends_before_the_first_stop_string(pieces: list[str], stop: list[str]) -> None:
    whole = "".join(pieces)
    places = [whole.find(each) for each in stop if each and each in whole]
    shown, found = read(pieces, stop)
    assert shown == (whole[: min(places)] if places else whole)
    assert (found is not None) == bool(places)


@given(st.lists(texts), st.text(alphabet="abX", min_size=1, max_size=3))
def test_an_included_stop_string_ends_the_answer(pieces: list[str], stop: str) -> None:
    whole = "".join(pieces)
    shown, found = read(pieces, [stop], include=True)
    assert shown == (whole[: whole.find(stop) + len(stop)] if found else whole)


@given(st.lists(texts), st.text(alphabet="abX", min_size=1, max_size=3))
def test_whatever_comes_next_nothing_shown_has_to_be_taken_back(pieces: list[str], stop: str) -> None:
    stops = StopStrings([stop])
    shown = given_so_far = ""
    for piece in pieces:
        shown += stops.push(piece)
        given_so_far += piece
        for taken in range(len(stop) + 1):
            whole = given_so_far + stop[taken:]
            ends_at = whole.find(stop) if stop in whole else len(whole)
            assert len(shown) <= ends_at
