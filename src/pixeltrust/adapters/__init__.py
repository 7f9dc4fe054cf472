"""Trust in the training loops of other frameworks: each adapter needs its framework, and nothing else of the package loads one."""
