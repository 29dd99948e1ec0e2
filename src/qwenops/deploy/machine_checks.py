"""What the machine itself allows: cores, memory, disk, clocks; each check says what was seen and what to do."""

from collections.abc import Iterator

from qwenops.deploy.checkup import Check, Status, Surroundings, gib
from qwenops.hardware import plan_environment, plan_threads
from qwenops.hardware.measure import Measured
from qwenops.models.spec import QWEN3_0_6B, QWEN3_1_7B, ModelSpec, Scheme
from qwenops.text import say

MODELS = {"qwen3:0.6b": QWEN3_0_6B, "qwen3:1.7b": QWEN3_1_7B}
SCHEMES = (Scheme.BF16, Scheme.INT8, Scheme.INT4)
CONTEXT_TOKENS = 8192
"""One conversation of the default length must fit."""
MEMORY_SHARE = 0.9
"""Of the limit; the rest is for the API process and for what an estimate misses."""
THROTTLED_SHARE = 0.05
STEADY_SPREAD = 0.25
SLOW_CLOCKS = ("hpet", "acpi_pm", "refined-jiffies")
MIN_OPEN_FILES = 1024


def cores(around: Surroundings) -> Iterator[Check]:
    """How many threads will compute, and why."""
    machine = around.machine
    plan = plan_threads(machine)
    quota = machine.cpu_quota
    environment = plan_environment(machine, plan.value)
    todo = ""
    if quota is not None and quota.value < 1:
        todo = say("Raise the CPU quota to at least one whole core, better two.")
    elif environment.value:
        todo = environment.reason
    elif quota is not None and quota.value < len(machine.affinity) and quota.value != int(quota.value):
        todo = say("Give a whole number of cores; the part of a core is left unused.")
    yield Check(
        name="cores",
        title=say("Cores"),
        status=Status.WARN if todo else Status.OK,
        what=say("{threads} threads will compute. {reason}", threads=plan.value, reason=plan.reason),
        todo=todo,
        facts={
            "threads": plan.value,
            "usable_cores": machine.usable_cores.value,
            "physical_cores": machine.physical_cores.value,
            "affinity": machine.affinity,
            "cpu_quota": None if quota is None else quota.value,
            "cgroup_layout": machine.cgroup_layout,
            "environment": environment.value,
        },
    )
    yield Check(
        name="smt",
        title=say("SMT"),
        status=Status.OK,
        what=machine.physical_cores.reason,
        facts={"smt": machine.processor.has_smt},
    )


def numa(around: Surroundings) -> Iterator[Check]:
    """Whether memory lies on several nodes."""
    nodes = [node for node in around.machine.processor.numa_nodes if set(node.cpus) & set(around.machine.affinity)]
    facts = {"nodes": {node.number: node.cpus for node in nodes}}
    if len(nodes) > 1:
        yield Check(
            name="numa",
            title=say("NUMA"),
            status=Status.WARN,
            what=say(
                "The CPUs of this process are on {count} NUMA nodes; memory of another node is slower.",
                count=len(nodes),
            ),
            todo=say("Run one server for each node: numactl --cpunodebind=N --membind=N qwenops serve ..."),
            facts=facts,
        )
    else:
        yield Check(
            name="numa", title=say("NUMA"), status=Status.OK, what=say("All memory is equally near."), facts=facts
        )


def instruction_sets(around: Surroundings) -> Iterator[Check]:
    """What the processor can compute with."""
    processor = around.machine.processor
    facts = {"model": processor.model, "architecture": processor.architecture, "isa": processor.isa}
    names = ", ".join(processor.isa) or "-"
    what = say("{model}: {names}", model=processor.model, names=names)
    if processor.architecture not in {"x86_64", "aarch64"}:
        yield Check(
            name="isa",
            title=say("Processor"),
            status=Status.FAIL,
            what=say("There is no engine for the architecture {name!r}.", name=processor.architecture),
            todo=say("Use a machine with x86-64 or ARM64."),
            facts=facts,
        )
    elif processor.architecture == "x86_64" and "avx2" not in processor.isa:
        yield Check(
            name="isa",
            title=say("Processor"),
            status=Status.WARN,
            what=what,
            todo=say(
                "Without AVX2 everything is several times slower. In a virtual machine, choose the host's CPU model."
            ),
            facts=facts,
        )
    else:
        yield Check(name="isa", title=say("Processor"), status=Status.OK, what=what, facts=facts)


def memory(around: Surroundings) -> Iterator[Check]:
    """The memory limit, and whether the host swaps."""
    host, limit = around.machine.memory, around.machine.memory_limit
    yield Check(
        name="memory",
        title=say("Memory"),
        status=Status.OK,
        what=say(
            "{limit} may be used ({reason}); the host has {total}.",
            limit=gib(limit.value),
            reason=limit.reason,
            total=gib(host.total_bytes),
        ),
        facts={
            "limit_bytes": limit.value,
            "total_bytes": host.total_bytes,
            "available_bytes": host.available_bytes,
        },
    )
    used_bytes = host.swap_total_bytes - host.swap_free_bytes
    busy = host.swap_total_bytes > 0 and used_bytes > host.swap_total_bytes // 2
    yield Check(
        name="swap",
        title=say("Swap"),
        status=Status.WARN if busy else Status.OK,
        what=say("{used} of {total} is used.", used=gib(used_bytes), total=gib(host.swap_total_bytes))
        if host.swap_total_bytes
        else say("There is none."),
        todo=say("Free memory first: weights that are swapped out make each token take seconds.") if busy else "",
        facts={"total_bytes": host.swap_total_bytes, "used_bytes": used_bytes},
    )


def model_fit(around: Surroundings) -> Iterator[Check]:
    """Which model fits into memory, in which number format, with how much room for conversations."""
    room_bytes = int(around.machine.memory_limit.value * MEMORY_SHARE)
    for name, spec in MODELS.items():
        fits = {scheme: _room_tokens(spec, scheme, room_bytes) for scheme in SCHEMES}
        facts = {
            scheme.value: {
                "needed_bytes": spec.estimate_memory(scheme, kv_tokens=CONTEXT_TOKENS).total_bytes,
                "kv_tokens": tokens,
            }
            for scheme, tokens in fits.items()
        }
        best = next((scheme for scheme in (Scheme.INT8, Scheme.INT4) if fits[scheme] >= CONTEXT_TOKENS), None)
        title = say("Fit of {model}", model=name)
        if best is None:
            smallest = spec.estimate_memory(Scheme.INT4, kv_tokens=CONTEXT_TOKENS).total_bytes
            yield Check(
                name=f"fit {name}",
                title=title,
                status=Status.FAIL if spec is QWEN3_0_6B else Status.WARN,
                what=say(
                    "Needs {needed} even as int4; {room} may be used.", needed=gib(smallest), room=gib(room_bytes)
                ),
                todo=say("Raise the memory limit, or shorten the context."),
                facts=facts,
            )
        else:
            yield Check(
                name=f"fit {name}",
                title=title,
                status=Status.OK,
                what=say(
                    "Fits as {schemes}; as {best} there is room for {tokens} tokens of conversations.",
                    schemes=", ".join(scheme.value for scheme in SCHEMES if fits[scheme] >= CONTEXT_TOKENS),
                    best=best.value,
                    tokens=fits[best],
                ),
                facts=facts,
            )


def disk(around: Surroundings) -> Iterator[Check]:
    """Whether a model can be stored and converted."""
    free_bytes = around.free_disk_bytes(around.store)
    needs = {name: spec.weight_bytes(Scheme.BF16) + spec.weight_bytes(Scheme.INT8) for name, spec in MODELS.items()}
    small, large = needs["qwen3:0.6b"], needs["qwen3:1.7b"]
    what = say("{free} is free for {folder}.", free=gib(free_bytes), folder=str(around.store))
    facts = {"free_bytes": free_bytes, "needed_bytes": needs}
    todo = ""
    if free_bytes < large:
        todo = say(
            "Downloading and converting takes {small} for 0.6B and {large} for 1.7B. "
            "Free some space, or set QWENOPS_HOME.",
            small=gib(small),
            large=gib(large),
        )
    status = Status.FAIL if free_bytes < small else Status.WARN if free_bytes < large else Status.OK
    yield Check(name="disk", title=say("Disk"), status=status, what=what, todo=todo, facts=facts)


def container(around: Surroundings) -> Iterator[Check]:
    """Whether this is a container, and whether a CPU quota has stopped it."""
    found, stopped = around.machine.container, around.machine.throttling
    yield Check(
        name="container",
        title=say("Container"),
        status=Status.OK,
        what=say("{kind}: {reason}", kind=found.value, reason=found.reason) if found.value else found.reason,
        facts={"kind": found.value},
    )
    if stopped is None:
        yield Check(
            name="throttling", title=say("Throttling"), status=Status.OK, what=say("No CPU quota stops this process.")
        )
        return
    share = stopped.throttled_periods / stopped.periods
    often = share > THROTTLED_SHARE
    yield Check(
        name="throttling",
        title=say("Throttling"),
        status=Status.WARN if often else Status.OK,
        what=say(
            "The CPU quota at {where} has stopped its processes in {share:.0%} of its periods, "
            "for {seconds:.1f} s in all.",
            where=stopped.where,
            share=share,
            seconds=stopped.throttled_s,
        ),
        todo=say("Let fewer threads compute than the quota has cores, or raise the quota.") if often else "",
        facts={
            "periods": stopped.periods,
            "throttled_periods": stopped.throttled_periods,
            "throttled_s": stopped.throttled_s,
        },
    )


def huge_pages(around: Surroundings) -> Iterator[Check]:
    """Whether large allocations get huge pages."""
    state = around.machine.huge_pages
    never = state == "never"
    yield Check(
        name="huge_pages",
        title=say("Huge pages"),
        status=Status.WARN if never else Status.OK,
        what=say("Transparent huge pages: {state}.", state=state or "-"),
        todo=say("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled lets weights be read a little faster.")
        if never
        else "",
        facts={"transparent": state, "free_explicit": around.machine.free_huge_pages},
    )


def clock(around: Surroundings) -> Iterator[Check]:
    """Whether the time can be right, and is cheap to read."""
    facts = {"source": around.clock_source, "now_s": around.now_s}
    if around.now_s < around.installed_at_s:
        yield Check(
            name="clock",
            title=say("Clock"),
            status=Status.WARN,
            what=say("The clock is earlier than the files of this program."),
            todo=say("Set the clock, for example with NTP; certificates and logs depend on it."),
            facts=facts,
        )
        return
    slow = around.clock_source in SLOW_CLOCKS
    yield Check(
        name="clock",
        title=say("Clock"),
        status=Status.WARN if slow else Status.OK,
        what=say("The kernel reads time from {source}.", source=around.clock_source or "-"),
        todo=say("This source is slow to read; on a real machine, boot with clocksource=tsc.") if slow else "",
        facts=facts,
    )


def open_files(around: Surroundings) -> Iterator[Check]:
    """Whether many clients can be connected."""
    few = around.max_open_files < MIN_OPEN_FILES
    yield Check(
        name="open_files",
        title=say("Open files"),
        status=Status.WARN if few else Status.OK,
        what=say("{count} may be open at once.", count=around.max_open_files),
        todo=say("Raise it with ulimit -n or LimitNOFILE=; each connection takes one.") if few else "",
        facts={"limit": around.max_open_files},
    )


def speed(measured: Measured) -> Iterator[Check]:
    """What the measured figures mean for a model."""
    bandwidth = measured.bandwidth_bytes_per_s
    # A step of decoding reads each weight once, so this many steps per second cannot be passed.
    bounds = {name: bandwidth / spec.decode_bytes(Scheme.INT8) for name, spec in MODELS.items()}
    yield Check(
        name="bandwidth",
        title=say("Memory bandwidth"),
        status=Status.OK,
        what=say(
            "{bandwidth:.1f} GB/s. One stream of int8 can write at most {small:.0f} tokens/s with 0.6B "
            "and {large:.0f} with 1.7B.",
            bandwidth=bandwidth / 1e9,
            small=bounds["qwen3:0.6b"],
            large=bounds["qwen3:1.7b"],
        ),
        todo=_unsteady(max(each.spread for each in measured.bandwidth)),
        facts={"bytes_per_s": bandwidth, "decode_bound_tokens_per_s": bounds},
    )
    rates = measured.rates
    best = max(rates.values(), default=0.0)
    prefill = {name: best / spec.flop_per_token(head=False) for name, spec in MODELS.items()}
    yield Check(
        name="gemm",
        title=say("Matrix products"),
        status=Status.OK if best else Status.WARN,
        what=say(
            "{rates} (10^12 operations/s). Prompts can be read with at most {small:.0f} tokens/s with 0.6B "
            "and {large:.0f} with 1.7B.",
            rates=", ".join(f"{precision} {rate / 1e12:.2f}" for precision, rate in rates.items()) or "-",
            small=prefill["qwen3:0.6b"],
            large=prefill["qwen3:1.7b"],
        ),
        todo=_unsteady(max(each.spread for each in measured.gemm))
        if best
        else say("Install the engine first: pip install openvino"),
        facts={"op_per_s": rates, "prefill_bound_tokens_per_s": prefill},
    )


def _unsteady(spread: float) -> str:
    """Say so when the passes differed much; something else was computing."""
    if spread <= STEADY_SPREAD:
        return ""
    return say("The passes differed by {spread:.0%}: other programs are running. Ask again when idle.", spread=spread)


def _room_tokens(spec: ModelSpec, scheme: Scheme, room_bytes: int) -> int:
    """Return how many tokens of KV cache fit beside the weights."""
    fixed_bytes = spec.estimate_memory(scheme, kv_tokens=0).total_bytes
    return max(0, (room_bytes - fixed_bytes) // spec.kv_bytes_per_token("u8"))
