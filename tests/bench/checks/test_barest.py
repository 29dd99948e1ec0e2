from qwenops.bench.checks.barest import read_streams
from qwenops.bench.simulated.model import ServerModel
from qwenops.bench.simulated.options import SimulatedOptions
from qwenops.bench.simulated.server import serve_simulated


async def test_it_reads_every_token_of_every_stream_and_says_what_that_took() -> None:
    options = SimulatedOptions(slots=8, prefill_tokens_per_s=0, decode_tokens_per_s=20, contention=0, coherence=0)
    async with serve_simulated(ServerModel(options)) as url:
        cost = await read_streams(url, streams=4, tokens=30)
    assert cost.whole == 4
    assert 0.0 < cost.core_share < 1.0
