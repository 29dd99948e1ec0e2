import pytest

torch = pytest.importorskip("torch", reason="processes talk through torch, which comes with the train extra")

from qwenops.classify.train.world import World, joined  # noqa: E402 -- after the skip
from qwenops.errors import ConfigError  # noqa: E402 -- after the skip

pytestmark = pytest.mark.reference


def test_without_torchrun_this_process_is_alone_and_nothing_is_sent() -> None:
    tensor = torch.tensor([1.0, 2.0])
    with joined({}, cuda=False) as world:
        assert world == World()
        world.add([tensor])
        world.take_first([tensor])
        assert world.agreed("x") == "x"
    assert tensor.tolist() == [1.0, 2.0]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    "environ",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "x", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
    ],
)
def test_incomplete_words_of_torchrun_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError), joined(environ, cuda=False):
        pass
