"""Measuring with Locust: its users and its workers, our records.

    parent (`drive.py`) ──> locustfile (`plan.py`) ──> a master and its workers, processes of their own
                                                            │ `user.py`: callers that stream, in greenlets
    run folder <── journals of the workers, merged <── `exchange.py`: one request and its moments

Locust rounds what it keeps and has no time to first token; so each worker writes the same records as every other
command, with raw moments, and Locust's own statistics are told unrounded values beside it.
"""
