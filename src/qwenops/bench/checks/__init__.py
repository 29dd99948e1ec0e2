"""What `qwenops bench selftest` checks: the suite against a server whose truth is known.

`truth` compares and judges, `virtual` plays hours in virtual time, `http` asks a real server over a real network.
"""
