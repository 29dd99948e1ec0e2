"""What is installed and reachable: Python, engines, the port, telemetry."""

from collections.abc import Iterator

from qwenops.deploy.checkup import Check, Status, Surroundings
from qwenops.text import say

OLDEST_PYTHON = (3, 11)


def python(around: Surroundings) -> Iterator[Check]:
    """Whether this Python is new enough."""
    version = ".".join(map(str, around.python))
    old = around.python[:2] < OLDEST_PYTHON
    yield Check(
        name="python",
        title=say("Python"),
        status=Status.FAIL if old else Status.OK,
        what=version,
        todo=say("Install Python 3.11 or newer.") if old else "",
        facts={"version": version},
    )


def engines(around: Surroundings) -> Iterator[Check]:
    """Which engines of the table can be used, and why not."""
    for engine in around.engines:
        versions = {name: around.version_of(name) for name in engine.needs}
        facts = {"versions": versions, "missing": engine.missing}
        name, title = f"engine {engine.engine}", say("Engine {engine}", engine=engine.engine)
        is_default = engine.engine == "openvino"
        if engine.missing:
            yield Check(
                name=name,
                title=title,
                status=Status.FAIL if is_default else Status.OK,
                what=say("Not usable: {missing} is not installed.", missing=", ".join(engine.missing)),
                todo=say("pip install {packages}", packages=" ".join(engine.missing)) if is_default else "",
                facts=facts,
            )
            continue
        others = [
            f"{name} {wanted}"
            for name in engine.needs
            if (wanted := around.wanted_version_of(name)) not in {None, versions[name]}
        ]
        yield Check(
            name=name,
            title=title,
            status=Status.WARN if others else Status.OK,
            what=", ".join(f"{name} {version}" for name, version in versions.items()) or say("Built in."),
            todo=say("This project is tested with {wanted}; install that version.", wanted=", ".join(others))
            if others
            else "",
            facts=facts,
        )


def arithmetic(around: Surroundings) -> Iterator[Check]:
    """Whether the engine computes rightly with the planned threads."""
    if any(engine.missing for engine in around.engines if engine.engine == "openvino"):
        return
    found = around.probe(around.machine)
    facts = {
        "version": found.version,
        "threads": found.threads,
        "f32_error": found.f32_error,
        "bf16_error": found.bf16_error,
        "failure": found.failure,
    }
    title = say("Arithmetic")
    if found.trusted and found.f32_error is not None:
        yield Check(
            name="arithmetic",
            title=title,
            status=Status.OK,
            what=say(
                "With {threads} threads a small graph is right: error {f32:.0e} in f32, {bf16} in bf16.",
                threads=found.threads,
                f32=found.f32_error,
                bf16="-" if found.bf16_error is None else f"{found.bf16_error:.0e}",
            ),
            facts=facts,
        )
    else:
        yield Check(
            name="arithmetic",
            title=title,
            status=Status.FAIL,
            what=found.failure
            or say(
                "A small graph came out wrong: error {f32} in f32, {bf16} in bf16.",
                f32=found.f32_error,
                bf16=found.bf16_error,
            ),
            todo=say("Give this process two cores or more, or set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16, and report it."),
            facts=facts,
        )


def port(around: Surroundings) -> Iterator[Check]:
    """Whether the server could listen."""
    title, facts = say("Port {port}", port=around.port), {"port": around.port, "host": around.host}
    if around.is_port_free(around.host, around.port):
        yield Check(name="port", title=title, status=Status.OK, what=say("Free."), facts=facts)
        return
    holder = around.port_holder(around.port)
    yield Check(
        name="port",
        title=title,
        status=Status.WARN,
        what=say("Taken by {name} (process {pid}).", name=holder.name, pid=holder.pid)
        if holder.pid
        else say("Taken, by a program of another user, or not allowed."),
        todo=say("Stop that program, or serve on another port: qwenops serve --port {other}", other=around.port + 1),
        facts={**facts, "holder_pid": holder.pid, "holder_name": holder.name},
    )


def telemetry(around: Surroundings) -> Iterator[Check]:
    """Whether a library could report itself over the network."""
    off = around.is_telemetry_off()
    yield Check(
        name="telemetry",
        title=say("Telemetry"),
        status=Status.OK if off else Status.WARN,
        what=say("OpenVINO cannot report itself from any process of qwenops.")
        if off
        else say("OpenVINO was imported before qwenops and may report itself over the network."),
        todo=say("For your other programs, run: opt_in_out --opt_out"),
        facts={"off": off},
    )
