"""Many scans in one run: nothing lost, nothing done twice, and a word on each.

A case's record (``case.json``) is written last, beside its outputs, and is the only state that
counts: whatever dies, the next run reads the records and goes on. ``cases`` finds what there is to
do, ``driver`` hands it out, ``worker`` processes do it, ``work`` says how; ``docs/operations.md``
has the rest.
"""
