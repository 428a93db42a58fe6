"""When a result is not to be believed: each organ's status, and rules that a scan must pass.

``survey`` gathers evidence slice by slice, ``status`` says what it means for each organ, ``rules``
is the table of gates, ``verdict`` applies it.
"""
