"""llama.cpp's own HTTP server in a process of its own: `python -m tests.infra.servers.llama_server FILE SLOTS`.

It prints the server's address when the model is loaded, and ends when its standard input does.
"""

import sys


def main(file: str, slots: str) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.model_alias = {"tiny"}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 4096
    params.n_parallel = int(slots)
    params.cpuparams.n_threads = 1
    params.endpoint_metrics = True
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)  # noqa: T201 -- the test reads it
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
