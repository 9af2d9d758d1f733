"""The measures.  Each is a function of a Bench, run in a process of its own, that returns its figures."""
