"""A language-model server of exactly known behaviour, in real time and in virtual time.

`model` computes what such a server would do and when; `engine` plays it as an `Engine` on any clock, `server` as an
HTTP server with two faces; `loop` is an event loop whose hours pass in seconds; `oracles` has the formulas that the
model is tested against. What the suite says about a simulated server can be compared with the truth.
"""
